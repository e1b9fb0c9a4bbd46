"""Linear assignment: which unit of the other model goes to which unit of the first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from onnxmerge.axes.layout import Positions
from onnxmerge.errors import InputError

PREFERENCE = 1e-10
"""Bonus for staying in place, as a share of the largest similarity: ties (dead or equal units) go to the identity.
The total can fall short of the best by at most this share for each unit."""


def assign(similarity: NDArray[np.float64], what: str) -> Positions:
    """The permutation p that maximises the sum of ``similarity[u, p[u]]`` [n, n], exactly, up to ``PREFERENCE``.

    Raises InputError where a similarity is not a finite number; ``what`` names the space in the message.
    """
    largest = float(np.abs(similarity).max(initial=0.0))
    if not np.isfinite(largest):
        raise InputError(
            f"space {what}: similarities are not finite numbers; look for NaN or infinity in the models' weights "
            "and in the calibration data"
        )
    if not len(similarity):
        return np.zeros(0, np.int64)
    preferred = similarity.copy()
    np.einsum("ii->i", preferred)[...] += PREFERENCE * largest
    best: Positions = preferred.argmax(axis=1)
    if len(set(best.tolist())) == len(best):  # no two units want the same one: nothing to search for
        return best
    # What is subtracted is the same for every permutation; the search is a third faster from here.
    preferred -= preferred.max(axis=1, keepdims=True, initial=-largest)
    preferred -= preferred.max(axis=0, keepdims=True, initial=-2.0 * largest)
    _, columns = linear_sum_assignment(preferred, maximize=True)
    return np.asarray(columns, dtype=np.int64)
