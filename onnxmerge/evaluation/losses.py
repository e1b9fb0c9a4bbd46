"""Losses of many networks against the same right answers, added up batch by batch.

What is right about a sample is a distribution over classes, or numbers. The loss is the divergence of the network's
distribution from the right one, in nats (where that is a label: the cross-entropy), or the mean squared error. Beside
it stands what one answer to all samples loses at least, so that losses of different kinds can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy

from onnxmerge.types import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Right:
    """What is right about one batch: probabilities of ``classes`` [n, rows], or numbers of any shape.

    Samples of no class are rows of nan, and so is each number that is not known.
    """

    values: Floats
    classes: bool

    def loss(self, given: Floats) -> float:
        """What ``given`` loses, in sum: logarithms of probabilities, or numbers, of the shape of ``values``."""
        known = ~np.isnan(self.values)
        right, found = self.values[known], given[known]
        if not self.classes:
            return float(np.square(found - right).sum())
        found, right = found[right > 0], right[right > 0]  # 0 log 0 is 0
        return max(float((right * (np.log(right) - found)).sum()), 0.0)  # but for rounding it is


@dataclass(slots=True, eq=False)
class Losses:
    """The losses of networks at one task: sums [networks], over ``count`` samples of classes or numbers.

    Of ``rows`` right answers ``unknown`` are not known, or not all their numbers.
    """

    sums: Floats
    count: int = 0
    rows: int = 0
    unknown: int = 0
    _classes: Floats | float = 0.0
    _information: float = 0.0
    _columns: dict[tuple[int, ...], _Columns] = field(default_factory=dict)

    def expect(self, right: Right) -> None:
        """Note what is right about the next batch."""
        values = np.atleast_1d(right.values)
        unknown = np.isnan(values).any(axis=tuple(range(1, values.ndim)))
        self.rows += len(values)
        self.unknown += int(np.count_nonzero(unknown))
        if right.classes:
            known = values[~unknown]
            self.count += len(known)
            self._classes = self._classes + known.sum(axis=0)
            self._information += float(scipy.special.xlogy(known, known).sum())
        else:
            self.count += int(np.count_nonzero(~np.isnan(values)))
            shape = values.shape[1:]
            self._columns[shape] = _columns(values).with_those_of(self._columns.get(shape))

    @property
    def means(self) -> Floats:
        """The loss of each network [networks]; infinite where a network answers with what is no number."""
        with np.errstate(invalid="ignore"):
            found = self.sums / self.count
        return np.where(np.isnan(found), np.inf, found)

    @property
    def constant(self) -> float:
        """The loss of the best single answer to all samples: 0 where they all have the same right one.

        That is one answer for all of one shape, where samples of one batch have more numbers than those of another.
        """
        if self._columns:
            return float(sum(columns.squares.sum() for columns in self._columns.values())) / self.count
        mean = np.asarray(self._classes) / self.count
        return max(self._information / self.count - float(scipy.special.xlogy(mean, mean).sum()), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """For each number of a sample: how many samples have it, their mean, and the squared distances from that in sum.

    Squares of the numbers themselves would cancel where these are far from 0.
    """

    count: Floats
    mean: Floats
    squares: Floats

    def with_those_of(self, others: _Columns | None) -> _Columns:
        """Both together (Chan, Golub and LeVeque 1979)."""
        if others is None:
            return self
        count = self.count + others.count
        share = self.count / np.maximum(count, 1)
        apart = self.mean - others.mean
        squares = self.squares + others.squares + np.square(apart) * others.count * share
        return _Columns(count, others.mean + apart * share, squares)


def _columns(values: Floats) -> _Columns:
    """Those of one batch [n, ...], without what is nan; equal numbers have exactly their own mean."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0)
    count = known.sum(axis=0).astype(np.float64)
    least = np.min(values, axis=0, where=known, initial=np.inf)
    origin = np.where(np.isfinite(least), least, 0)
    mean = origin + np.where(known, filled - origin, 0).sum(axis=0) / np.maximum(count, 1)
    return _Columns(count, mean, np.square(np.where(known, filled - mean, 0)).sum(axis=0))
