"""Matching: which units of the other models correspond to which units of the first.

A ``plan`` says which groups there are and in which weights they stand, ``similarity`` how alike units are, and
``structured`` assigns the units of one group. ``sweeps`` goes over the groups for two models, ``joint`` for many at
once in a ``universe``, ``zip_sweeps`` where units of one model may be merged too (``zipping``). The methods by name are
in ``methods``.
"""
