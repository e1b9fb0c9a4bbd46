"""Bring models into the coordinates of the first, average them, and repair the statistics of what comes out."""
