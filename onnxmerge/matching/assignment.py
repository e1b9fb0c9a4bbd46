"""The assignment problem: which unit of the other model goes to which unit of the first.

scipy solves it by one shortest path for each row. A path ends soon where the matrix is near its solution, that is where
what rows and columns have in common is taken off: a constant for each row and each column, which changes no
permutation's rank. The constants that make all else vanish are the duals of the problem; near ones come from entropic
regularisation, a few products of a matrix and a vector (Cuturi, Sinkhorn Distances, NIPS 2013, arXiv 1306.0895). The
answer is as exact as without them, and sooner there for units of networks that were trained apart.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.types import Floats, Positions

PREFERENCE = 1e-10
"""Bonus for staying in place, as a share of the largest similarity: ties (dead or equal units) go to the identity.
The total can fall short of the best by at most this share for each unit."""

MANY = 256
"""Units from which on duals are worth their products."""

TEMPERATURES = ((0.03, 10), (0.006, 20))
"""Of the regularisation, as shares of the mean cost, and the rounds at each."""


def assign(similarity: NDArray[np.float64], what: str) -> Positions:
    """The permutation p that maximises the sum of ``similarity[u, p[u]]`` [n, n], exactly, up to ``PREFERENCE``.

    Of many similarities [..., n, n] each gets its own: permutations [..., n]. Raises InputError where a similarity is
    not a finite number; ``what`` names the space in the message.
    """
    found = np.empty(similarity.shape[:-1], np.int64)
    for place in np.ndindex(similarity.shape[:-2]):
        largest = max(similarity[place].max(initial=0.0), -similarity[place].min(initial=0.0))
        if not np.isfinite(largest):
            raise InputError(
                f"space {what}: similarities are not finite numbers; look for NaN or infinity in the models' weights "
                "and in the calibration data"
            )
        costs = -similarity[place]
        np.einsum("ii->i", costs)[...] -= PREFERENCE * largest
        found[place] = _cheapest(costs)
    return found


def _cheapest(costs: Floats) -> Positions:
    """The permutation of the least sum of ``costs`` [n, n], which are changed by constants for rows and columns."""
    _take_off_least(costs)
    if (first := _least_of_rows(costs)) is not None:
        return first
    if len(costs) >= MANY:
        rows, columns = _duals(costs)
        costs -= rows[:, None]
        costs -= columns
        _take_off_least(costs)
    found: Positions = scipy.optimize.linear_sum_assignment(costs)[1]
    return found


def _take_off_least(costs: Floats) -> None:
    costs -= costs.min(axis=1, keepdims=True, initial=np.inf)
    costs -= costs.min(axis=0, keepdims=True, initial=np.inf)


def _least_of_rows(costs: Floats) -> Positions | None:
    """Each row's least cost, where no two of them are in one column: then nothing is cheaper."""
    found = costs.argmin(axis=1) if len(costs) else np.zeros(0, np.int64)
    return found if np.bincount(found, minlength=len(costs)).max(initial=0) <= 1 else None


def _duals(costs: Floats) -> tuple[Floats, Floats]:
    """A number for each row and each column whose sums are near the ``costs`` of the solution, and above few others.

    Any are right, so what rounding spoils is left out. Products are not those of BLAS, whose rounding depends on the
    number of threads: among equals it would decide.
    """
    units, spread = len(costs), float(costs.mean()) or 1.0
    scaled = (costs / spread).astype(np.float32)
    rows: NDArray[np.float32] = np.zeros(units, np.float32)
    columns: NDArray[np.float32] = np.zeros(units, np.float32)
    kernel = np.empty_like(scaled)
    with np.errstate(all="ignore"):
        for temperature, rounds in TEMPERATURES:
            np.subtract(columns, scaled, out=kernel)
            kernel += rows[:, None]
            kernel /= np.float32(temperature)
            np.exp(kernel, out=kernel)
            by_row, by_column = (np.ones(units, np.float32) for _ in range(2))
            for _ in range(rounds):
                by_row = 1 / np.einsum("rc,c->r", kernel, by_column)
                by_column = 1 / np.einsum("rc,r->c", kernel, by_row)
            rows += _finite(np.float32(temperature) * np.log(by_row))
            columns += _finite(np.float32(temperature) * np.log(by_column))
    return rows.astype(np.float64) * spread, columns.astype(np.float64) * spread


def _finite(changes: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.isfinite(changes), changes, np.float32(0))
