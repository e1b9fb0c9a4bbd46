"""Axis typing: the calculus of cells, operator signatures and rules, and what they resolve to."""
