"""What counts as equal to what a parent has: all but rounding."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import ArrayLike, DTypeLike

from onnxmerge.merging.alike import equal

FLOATS = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_rounding_leaves_is_equal(dtype: DTypeLike) -> None:
    values = np.array([1.0, -3.0, 100.0, 0.0], dtype)
    step = 1 + float(np.spacing(np.ones((), dtype)))
    assert equal(values * np.asarray(step, dtype), values)
    assert not equal(values * np.asarray(step**5, dtype), values)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([0.0, 1.0], [-0.0, 1.0], True),
        ([1e-40, 1.0], [3e-41, 1.0], True),
        ([1e-30, 1.0], [2e-30, 1.0], False),
        ([np.inf, 1.0], [np.inf, 1.0], True),
        ([np.inf, 1.0], [-np.inf, 1.0], False),
        ([np.inf, 1.0], [3e38, 1.0], False),
        ([np.nan, 1.0], [np.nan, 1.0], True),
        ([np.nan, 1.0], [0.0, 1.0], False),
        ([1.0], [1.0, 1.0], False),
    ],
)
def test_zeros_and_what_is_not_finite(one: ArrayLike, other: ArrayLike, *, same: bool) -> None:
    assert equal(np.asarray(one, np.float32), np.asarray(other, np.float32)) == same


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.bool_])
def test_what_is_no_float_is_equal_bit_by_bit(dtype: DTypeLike) -> None:
    assert equal(np.array([0, 1], dtype), np.array([0, 1], dtype))
    assert not equal(np.array([0, 1], dtype), np.array([1, 1], dtype))
    assert not equal(np.array([0, 1], dtype), np.array([0, 1], np.float32))
