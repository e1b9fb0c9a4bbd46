"""Linear assignment: which unit of the other model goes to which unit of the first."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.types import Positions

PREFERENCE = 1e-10
"""Bonus for staying in place, as a share of the largest similarity: ties (dead or equal units) go to the identity.
The total can fall short of the best by at most this share for each unit."""


def assign(similarity: NDArray[np.float64], what: str) -> Positions:
    """The permutation p that maximises the sum of ``similarity[u, p[u]]`` [n, n], exactly, up to ``PREFERENCE``.

    Of many similarities [..., n, n] each gets its own: permutations [..., n]. Raises InputError where a similarity is
    not a finite number; ``what`` names the space in the message.
    """
    largest = np.abs(similarity).max(axis=(-2, -1), keepdims=True, initial=0.0)
    if not np.isfinite(largest).all():
        raise InputError(
            f"space {what}: similarities are not finite numbers; look for NaN or infinity in the models' weights "
            "and in the calibration data"
        )
    preferred = similarity.copy()
    np.einsum("...ii->...i", preferred)[...] += PREFERENCE * largest[..., 0]
    # What is subtracted is the same for every permutation; the search is a third faster from here.
    preferred -= preferred.max(axis=-1, keepdims=True, initial=-np.inf)
    preferred -= preferred.max(axis=-2, keepdims=True, initial=-np.inf)
    found = np.empty(similarity.shape[:-1], np.int64)
    for place in np.ndindex(similarity.shape[:-2]):
        found[place] = scipy.optimize.linear_sum_assignment(preferred[place], maximize=True)[1]
    return found
