"""Accuracy and error as sums over samples: what one batch contributes, and how contributions add up.

Nothing is kept of a sample but its part of a sum, so data of any size can be scored while it streams past:

    total = hits(scores, right, (1, 5))
    total += hits(more_scores, more_right, (1, 5))
    top1, top5 = total.rates
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.evaluation.task import Loss


@dataclass(frozen=True, slots=True)
class Hits:
    """Of ``samples``, how many had the right row among the k highest: one count for each k."""

    counts: tuple[int, ...]
    samples: int

    def __add__(self, other: Hits) -> Hits:
        counts = (mine + others for mine, others in zip(self.counts, other.counts, strict=True))
        return Hits(tuple(counts), self.samples + other.samples)

    @property
    def rates(self) -> tuple[float, ...]:
        """Top-k accuracy from 0 to 1 for each k; there must be a sample."""
        return tuple(count / self.samples for count in self.counts)


def hits(scores: NDArray[np.floating[Any]], right: NDArray[np.integer[Any]], ks: Sequence[int]) -> Hits:
    """Hits of ``scores`` [N, rows] where row ``right`` [N] is the right one; -1 is a sample that no row is right for.

    Of equal scores the one in the lower row comes first, as with argmax. A score that is nan is never right.
    """
    scored = np.flatnonzero(right >= 0)
    rows, values = right[scored], np.asarray(scores)[scored]
    own = values[np.arange(len(rows)), rows][:, None]
    lower = np.arange(values.shape[1])[None] < rows[:, None]
    before = np.isnan(values) | (values > own) | ((values == own) & lower)
    rank = np.where(np.isnan(own[:, 0]), np.inf, before.sum(axis=1))
    return Hits(tuple(int((rank < k).sum()) for k in ks), len(right))


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Sums of absolute and of squared errors [columns], over ``samples`` [columns] values each."""

    absolute: NDArray[np.float64]
    squared: NDArray[np.float64]
    samples: NDArray[np.int64]

    def __add__(self, other: Errors) -> Errors:
        return Errors(self.absolute + other.absolute, self.squared + other.squared, self.samples + other.samples)

    def means(self, loss: Loss) -> NDArray[np.float64]:
        """Mean absolute or mean squared error of each column; there must be a value in each."""
        means: NDArray[np.float64] = getattr(self, loss) / self.samples
        return means


def errors(predictions: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]]) -> Errors:
    """Errors of ``predictions`` [N, columns]; where ``targets`` [N, columns] is nan there is nothing to predict."""
    known = ~np.isnan(targets)
    difference = np.where(known, np.asarray(predictions, np.float64) - targets, 0.0)
    return Errors(np.abs(difference).sum(axis=0), np.square(difference).sum(axis=0), known.sum(axis=0))


def scaled_score(loss: float, *, baseline: float, parent: float) -> float | None:
    """(L_avg - L) / (L_avg - L_parent): 1 is as good as the parent, 0 as the baseline.

    ``baseline`` is L_avg. The measure of heterogeneous tasks in MuDSC (Xu et al., CVPR 2024, 2403.01753). None where
    the parent is no better than the baseline, so that there is no scale.
    """
    return (baseline - loss) / (baseline - parent) if parent < baseline else None
