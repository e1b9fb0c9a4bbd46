"""Matching: which units of the other models correspond to which units of the first.

``similarity`` says how alike units are, ``structured`` assigns the units of one group (see ``units.groups``).
``sweeps`` goes over the groups for two models, ``joint`` for many at once in a ``universe``, ``zip_sweeps`` where units
of one model may be merged too (``zipping``). ``procrustes`` finds rotations. The methods by name are in ``methods``.
"""
