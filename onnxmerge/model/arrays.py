"""What can be averaged, and what is the same: arrays of every type that weights are stored in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE = 1 << 20


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether values of this type can be averaged: floats of any width, ml_dtypes' among them, and complex numbers."""
    return dtype.kind in "fc" or dtype.name.startswith(("bfloat", "float"))


def identical(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Equal bit by bit; nan patterns count as equal."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype == object:
        return bool(np.array_equal(one, other))
    left, right = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (one, other))
    return same_numbers(left, right)


def same_numbers(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Equal number by number; nan equals nothing."""
    if one.shape != other.shape:
        return False
    left, right = one.reshape(-1), other.reshape(-1)
    # Piece by piece, as most arrays that differ do so from the first.
    return all(np.array_equal(left[piece], right[piece]) for piece in pieces(left.size))


def pieces(size: int) -> Iterator[slice]:
    """Slices that cover so many elements, each small beside an array that is worth it."""
    return (slice(start, start + PIECE) for start in range(0, size, PIECE))


def all_finite(array: NDArray[Any]) -> bool:
    """Whether an array of floats holds neither nan nor an infinity: one makes the sum one."""
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())


def holds_nan(array: NDArray[Any]) -> bool:
    """Whether an array of floats holds nan: any makes the sum nan, as infinities of both signs do too."""
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isnan(array.sum())) and bool(np.isnan(array).any())
