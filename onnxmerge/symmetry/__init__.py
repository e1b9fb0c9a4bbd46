"""Symmetries of networks beyond permutation: rotations of the axes that are only ever read linearly."""
