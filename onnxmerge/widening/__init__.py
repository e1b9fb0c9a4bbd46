"""Partial merging: the least similar units of each group stay apart, and the merged layers grow wider for them."""
