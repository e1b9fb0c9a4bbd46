"""Checks: that the typing holds on the network at hand, and how much of it can move."""
