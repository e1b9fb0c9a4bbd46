"""First singular directions by Gram matrices, against a full decomposition by LAPACK."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.merging.task_vectors.directions import PRECISE, leading, orthonormal
from onnxmerge.types import Floats

RNG = np.random.default_rng(0)
EPS = float(np.finfo(np.float64).eps)


def matrix(out: int, into: int, sizes: NDArray[Any]) -> Floats:
    """A matrix with such singular values."""
    left, right = (np.linalg.qr(RNG.standard_normal((rows, len(sizes))))[0] for rows in (out, into))
    return np.asarray(left * sizes @ right.T)


NOISE = RNG.standard_normal((40, 40))
CASES = {
    "wide": RNG.standard_normal((30, 70)),
    "tall": RNG.standard_normal((70, 30)),
    "square": NOISE,
    "one row": RNG.standard_normal((1, 9)),
    "one column": RNG.standard_normal((9, 1)),
    "equal sizes": matrix(40, 50, np.ones(40)),
    "low rank": matrix(40, 50, np.arange(1.0, 9)),
    "low rank, stored in float32": matrix(40, 40, np.arange(1.0, 9)) + 1e-7 * NOISE,
    "falling to rounding": matrix(40, 60, 10.0 ** -np.arange(0, 16, 0.4)),
    "falling fast": matrix(20, 20, 10.0 ** -np.arange(0, 60, 3)),
    "just precise": matrix(20, 20, np.geomspace(1, PRECISE, 20)),
    "just not precise": matrix(20, 20, np.geomspace(1, 0.9 * PRECISE, 20)),
    "squares too large": 1e200 * NOISE,
    "squares too small": 1e-200 * NOISE,
    "zero": np.zeros((5, 7)),
}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_directions_are_those_of_a_full_decomposition(name: str, share: float) -> None:
    given = CASES[name]
    before, count = given.copy(), max(round(share * min(given.shape)), 1)
    full_u, full_s, full_v = np.linalg.svd(given, full_matrices=False)
    u, s, v = leading(given, count)
    np.testing.assert_array_equal(given, before)
    known, size = len(s), full_s[0]
    assert known == min(count, int(np.sum(full_s > size * max(given.shape) * EPS)))
    assert np.all(np.diff(s) <= 1e-12 * size)
    np.testing.assert_allclose(s, full_s[:known], rtol=1e-9, atol=1e-15 * size)
    np.testing.assert_allclose(u.T @ u, np.eye(known), atol=1e-9)
    np.testing.assert_allclose(v.T @ v, np.eye(known), atol=1e-9)
    gap = full_s[known - 1] - full_s[known] if 0 < known < len(full_s) else size
    if gap > 1e-6 * size:  # among equal sizes any directions are the first
        expected = full_u[:, :known] * full_s[:known] @ full_v[:known]
        np.testing.assert_allclose(u * s @ v.T, expected, atol=1e-11 * max(size, 1e-300))


@pytest.mark.parametrize("shape", [(30, 30), (50, 30), (30, 50)])
def test_the_nearest_orthonormal_matrix(shape: tuple[int, int]) -> None:
    columns = RNG.standard_normal(shape)
    p, _, q = np.linalg.svd(columns, full_matrices=False)
    np.testing.assert_allclose(orthonormal(columns), p @ q, atol=1e-10)


def test_columns_that_say_the_same_stand_for_one_direction() -> None:
    """Two tasks that learnt the same: LAPACK would fill up with any directions."""
    one = np.linalg.qr(RNG.standard_normal((20, 4)))[0]
    np.testing.assert_allclose(orthonormal(np.hstack([one, one])), np.hstack([one, one]) / np.sqrt(2), atol=1e-12)
