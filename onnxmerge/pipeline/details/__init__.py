"""What a merge came to, for those who look at it, not for the file: units and weights, layers and outputs.

A merge needs none of this, so it is measured only where it is asked for (``merge.details_of``).
"""
