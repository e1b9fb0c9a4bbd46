"""Symmetries of networks beyond permutation: rotations of the axes that are only ever read linearly.

``linear_spaces`` finds the spaces, ``rotation`` rotates weights, ``procrustes`` finds the rotation that brings one
model closest to another.
"""
