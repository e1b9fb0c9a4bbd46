"""The first singular directions of a matrix, by eigenvectors of the smaller of its Gram matrices.

A matrix A [out, in] = U S V^T, of which a few directions are wanted, costs a full decomposition many times what
A A^T = U S^2 U^T does, but squares lose half the digits: directions whose size is near 1e-8 of the largest drown. So
from one Gram matrix only those are taken that are not below ``PRECISE`` of its largest. They are then taken out of the
matrix, and the next are found in what is left, whose largest is a small one; and so on, down to rounding. In this way
products of U, and of V, are off by at most about eps / PRECISE^2 = 2e-10, and each direction by as much as
1 / PRECISE times what a full decomposition leaves (which is eps S_1 over the gap to the next size).
"""

from __future__ import annotations

import numpy as np
import scipy

from onnxmerge.types import Floats

PRECISE = 1e-3
"""Sizes below this part of the largest are not read off the same Gram matrix."""

EXPONENT = 400
"""Powers of two up to which, and down to which, the squares of numbers are numbers with all their digits."""

MOST = 0.6
"""Part of all eigenvectors from which on all of them cost no more."""


def leading(matrix: Floats, count: int) -> tuple[Floats, Floats, Floats]:
    """U [out, k], S [k] and V [in, k] of the first singular triples, at most ``count``; none whose size is zero.

    A direction that a task does not have (LoRA leaves most of them) would be any, and take room from those of others.
    """
    if matrix.shape[0] > matrix.shape[1]:
        v, s, u = leading(matrix.T, count)
        return u, s, v
    exponent = int(np.frexp(max(matrix.max(initial=0.0), -matrix.min(initial=0.0)))[1])
    if abs(exponent) > EXPONENT:
        u, s, v = leading(np.ldexp(matrix, -exponent), count)
        return u, np.ldexp(s, exponent), v
    rest = matrix
    u, s, v = np.zeros((len(matrix), 0)), np.zeros(0), np.zeros((matrix.shape[1], 0))
    least, missing = 0.0, min(count, len(matrix))
    while missing > 0:
        own, scaled = _first(rest, missing)
        sizes = np.linalg.norm(scaled, axis=1)
        largest = sizes.max(initial=0.0)
        if not s.size:
            least = largest * max(matrix.shape) * float(np.finfo(np.float64).eps)
        known = (sizes > least) & (sizes >= PRECISE * largest)
        count = len(known) if known.all() else int(known.argmin())
        if not count:
            break
        right = scaled[:count]
        right /= sizes[:count, None]
        more = (own[:, :count], sizes[:count], right.T)
        u, s, v = (np.hstack(each) for each in zip((u, s, v), more, strict=True)) if s.size else more
        missing -= count
        if missing:
            rest = matrix - (u * s) @ v.T
            rest -= u @ (u.T @ rest)
            rest -= (rest @ v) @ v.T
    return u, s, v


def orthonormal(columns: Floats) -> Floats:
    """The nearest matrix with orthonormal columns [n, k] (rows, where there are more columns than rows).

    In directions that the columns do not have it is zero, where any would be as near.
    """
    u, _, v = leading(columns, min(columns.shape))
    return u @ v.T


def _first(matrix: Floats, count: int) -> tuple[Floats, Floats]:
    """The first left singular directions [out, k], the largest first, and U^T A [k, in] of them."""
    gram, size = matrix @ matrix.T, len(matrix)
    if count > MOST * size:
        _, vectors = np.linalg.eigh(gram)
    else:
        _, vectors = scipy.linalg.eigh(
            gram, subset_by_index=(size - count, size - 1), overwrite_a=True, check_finite=False, driver="evr"
        )
    u = np.ascontiguousarray(vectors[:, ::-1][:, :count])
    return u, u.T @ matrix
