"""Losses of many networks against the same right answers, added up batch by batch.

What is right about a sample is a distribution over classes, or numbers. The loss is the divergence of the network's
distribution from the right one, in nats (where that is a label: the cross-entropy), or the mean squared error. Beside
it stands what one answer to all samples loses at least, so that losses of different kinds can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """The losses of networks at one task: sums [networks], over ``count`` samples or numbers."""

    sums: Floats
    count: int = 0
    _first: Floats | float = 0.0
    _second: float = 0.0
    _classes: bool = False

    def expect(self, right: Right) -> None:
        """Note what is right about the next batch."""
        values, self._classes = right.values, right.classes
        if right.classes:
            known = values[~np.isnan(values).any(axis=1)]
            self.count += len(known)
            self._first = self._first + known.sum(axis=0)
            self._second += float(scipy.special.xlogy(known, known).sum())
        else:
            known = values[~np.isnan(values)]
            self.count += known.size
            self._first = self._first + float(known.sum())
            self._second += float(np.square(known).sum())

    @property
    def means(self) -> Floats:
        """The loss of each network [networks]; infinite where a network answers with what is no number."""
        with np.errstate(invalid="ignore"):
            found = self.sums / self.count
        return np.where(np.isnan(found), np.inf, found)

    @property
    def constant(self) -> float:
        """The loss of the best single answer to all samples: 0 where they all have the same right one."""
        mean = np.asarray(self._first) / self.count
        least = scipy.special.xlogy(mean, mean).sum() if self._classes else float(mean) ** 2
        return max(self._second / self.count - float(least), 0.0)
