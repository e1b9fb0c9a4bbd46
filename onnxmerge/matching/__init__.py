"""Matching: which units of the other models correspond to which units of the first."""
