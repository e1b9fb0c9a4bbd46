"""The greedy zip: merge the two most similar units, of any models, until so many are left as are wanted.

Stoica et al., ZipIt! Merging Models from Different Tasks without Training (ICLR 2024, arXiv 2305.03053), section 4.1
and appendix. The similarity of a merged unit to any other is the smaller of its two parts', times ``a``. A ``budget``
bounds the merges of a model's units among themselves.

Similarities only ever fall, so each row's maximum is kept and looked at again only when it comes up: O(N) for a merge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import InputError, UsageError
from onnxmerge.types import Positions

PREFERENCE = 1e-10
"""Bonus for units at the same place in two models, as a share of the largest similarity: ties (dead or equal units)
go to the identity. Units of two models get half of it, so that a tie never merges units inside a model."""

RESEMBLING = 2e-7
"""A similarity of less than this share of the largest is none; where all are equal up to that, they break ties."""

MIXED = -1
"""The owner of a merged unit with parts of several models."""


@dataclass(frozen=True, slots=True)
class ZipRule:
    """``a`` multiplies the similarity of merged units, ``b`` is the share of a model's merges that may be inside it.

    A negative similarity is left as it is: a discount must not raise it. With a = 0 merged units are merged again only
    where nothing else can be. Raises UsageError where one is not between 0 and 1.
    """

    a: float = 0.5
    b: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.a <= 1 or not 0 <= self.b <= 1:
            raise UsageError(f"zip: a and b must lie between 0 and 1, found a = {self.a}, b = {self.b}")


def zip_units(
    similarity: NDArray[np.float64],
    models: int,
    what: str,
    *,
    width: int | None = None,
    rule: ZipRule | None = None,
    overwrite: bool = False,
) -> Positions:
    """Which merged unit each unit becomes part of, int64 [models, n], numbered by their first parts.

    ``similarity`` [models * n, models * n] is symmetric, model after model; its diagonal is not looked at, and with
    ``overwrite`` it is used up. ``width`` is the number of merged units, n by default. ``what`` names the space.

    Units that resemble no other at all are constant (dead): they go together before all others, since no variance is
    lost by that.

    Raises:
        InputError: a similarity is not a finite number. UsageError: there cannot be so many merged units.

    """
    units = len(similarity)
    width = units // models if width is None else width
    if models < 2 or units % models or not 1 <= width <= units:
        raise UsageError(f"space {what}: {units} units of {models} models cannot become {width}")
    span = float(np.abs(similarity).max(initial=0.0))
    if not np.isfinite(span):
        raise InputError(
            f"space {what}: similarities are not finite numbers; look for NaN or infinity in the models' weights "
            "and in the calibration data"
        )
    rule = rule or ZipRule()
    pool = _Pool(similarity if overwrite else similarity.copy(), models, span or 1.0, rule.a)
    pool.budget[:] = int((units - width) / models * rule.b + 1e-9)
    for _ in range(units - width):
        pool.merge(*pool.closest())
    return pool.labels().reshape(models, -1)


class _Pool:
    """The units that are left. A merged unit goes by the number of its first part, where its row and column stand.

    ``best[i]`` is at least the largest similarity of unit i to one that it may be merged with; it is exact as long as
    ``partner[i]`` still has it.
    """

    def __init__(self, similarity: NDArray[np.float64], models: int, span: float, discount: float) -> None:
        units = len(similarity)
        size = units // models
        place = np.arange(units)
        np.fill_diagonal(similarity, 0.0)
        constant = np.flatnonzero(np.abs(similarity).max(axis=1, initial=0.0) <= RESEMBLING * span)
        similarity[np.ix_(constant, constant)] += span
        owner = np.repeat(np.arange(models), size)
        similarity += np.where(owner[:, None] != owner, PREFERENCE / 2 * span, 0.0)
        for shift in range(size, units, size):
            similarity[place[:-shift], place[shift:]] += PREFERENCE / 2 * span
            similarity[place[shift:], place[:-shift]] += PREFERENCE / 2 * span
        np.fill_diagonal(similarity, -np.inf)
        self.similarity = similarity
        self.owner = owner
        self.budget = np.zeros(models, np.int64)
        self._discount, self._penalty = discount, 4 * span + 1
        self._merged_into = np.arange(units)
        self._gone = np.zeros(units)  # -inf for units that are part of another
        self._best, self._partner = similarity.max(axis=1, initial=-np.inf), similarity.argmax(axis=1)

    def closest(self) -> tuple[int, int]:
        """The two most similar units that may be merged, the first one first; of equals the first."""
        while True:
            unit = int(self._best.argmax())
            other = int(self._partner[unit])
            if self.similarity[unit, other] == self._best[unit] and self._may_merge(unit, other):
                return min(unit, other), max(unit, other)
            self._look(unit)

    def merge(self, unit: int, other: int) -> None:
        """Merge ``other`` into ``unit``."""
        row = np.minimum(self.similarity[unit], self.similarity[other])
        row = np.minimum(row, self._discount * row) if self._discount else row - self._penalty
        self.similarity[unit] = row
        self.similarity[:, unit] = row
        self._merged_into[other] = unit
        self._gone[other] = self._best[other] = -np.inf
        if self.owner[unit] != self.owner[other]:
            self.owner[unit] = MIXED
        elif self.owner[unit] != MIXED:
            self.budget[self.owner[unit]] -= 1
        self._look(unit)

    def labels(self) -> Positions:
        """The merged unit of each unit, numbered from 0."""
        first = self._merged_into.copy()
        for unit, into in enumerate(first):
            first[unit] = first[into]  # merged units have the lowest number of their parts
        return np.unique(first, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def _may_merge(self, unit: int, other: int) -> bool:
        owner = self.owner[unit]
        spent = owner != MIXED and owner == self.owner[other] and self.budget[owner] <= 0
        return not spent and not np.isneginf(self._gone[other])

    def _look(self, unit: int) -> None:
        row = self.similarity[unit] + self._gone
        owner = self.owner[unit]
        if owner != MIXED and self.budget[owner] <= 0:
            row[self.owner == owner] = -np.inf
        self._partner[unit] = row.argmax()
        self._best[unit] = row[self._partner[unit]]
