"""Accuracy and error as sums over samples: what one batch contributes, and how contributions add up.

Nothing is kept of a sample but its part of a sum, so data of any size can be scored while it streams past:

    total = hits(ranks(scores, right), (1, 5))
    total += hits(ranks(more_scores, more_right), (1, 5))
    top1, top5 = total.rates
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.evaluation.intervals import Interval, of_mean, wilson
from onnxmerge.evaluation.task import Loss

BINS = 15
"""Of equal width, into which confidence is divided."""


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

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The 95% interval of each rate."""
        return tuple(wilson(count, self.samples) for count in self.counts)


def hits(rank: NDArray[np.float64], ks: Sequence[int]) -> Hits:
    """Hits by the `ranks` [N] of the right rows."""
    return Hits(tuple(int((rank < k).sum()) for k in ks), len(rank))


def ranks(scores: NDArray[np.floating[Any]], right: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """How many of ``scores`` [N, rows] come before that of row ``right`` [N], for each sample.

    Infinity for -1, a sample that no row is right for. Of equal scores the one in the lower row comes first, as with
    argmax. A score that is nan is never right.
    """
    scored = np.flatnonzero(right >= 0)
    rows, values = right[scored], np.asarray(scores)[scored]
    own = values[np.arange(len(rows)), rows][:, None]
    lower = np.arange(values.shape[1])[None] < rows[:, None]
    before = np.isnan(values) | (values > own) | ((values == own) & lower)
    found = np.full(len(right), np.inf)
    found[scored] = np.where(np.isnan(own[:, 0]), np.inf, before.sum(axis=1))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """How sure answers are and how often right, in bins of confidence: sums [BINS], over ``samples`` answers."""

    confidence: NDArray[np.float64]
    right: NDArray[np.float64]
    samples: int

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(self.confidence + other.confidence, self.right + other.right, self.samples + other.samples)

    @property
    def error(self) -> float:
        """Expected calibration error from 0 to 1; nan where a confidence is.

        ECE = sum_b |right_b - confidence_b| / N, over bins (0, 1/15], (1/15, 2/15], ... of the confidence. Source: Guo
        et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599.
        """
        return float(np.abs(self.right - self.confidence).sum()) / self.samples


def reliability(
    probabilities: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]], right: NDArray[np.integer[Any]]
) -> Reliability:
    """How sure answers are, the highest of ``scores`` [N, rows], by the ``probabilities`` [N, rows] of what they name.

    ``right`` [N] is the right row; -1 is a sample that no row is right for.
    """
    answered = scores.argmax(axis=1)
    confidence = probabilities[np.arange(len(answered)), answered].astype(np.float64)
    bins = np.clip(np.ceil(np.nan_to_num(confidence) * BINS).astype(np.int64) - 1, 0, BINS - 1)
    sure, good = (np.bincount(bins, values, BINS).astype(np.float64) for values in (confidence, answered == right))
    return Reliability(sure, good, len(right))


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Sums of absolute errors [columns], of their squares and fourth powers, over ``samples`` [columns] each."""

    absolute: NDArray[np.float64]
    squared: NDArray[np.float64]
    fourth: NDArray[np.float64]
    samples: NDArray[np.int64]

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.absolute + other.absolute,
            self.squared + other.squared,
            self.fourth + other.fourth,
            self.samples + other.samples,
        )

    def intervals(self, loss: Loss) -> tuple[Interval, ...]:
        """The 95% interval of each of `means`."""
        squares = self.squared if loss == "absolute" else self.fourth
        return tuple(
            of_mean(float(mean), float(square / samples), int(samples))
            for mean, square, samples in zip(self.means(loss), squares, self.samples, strict=True)
        )

    def means(self, loss: Loss) -> NDArray[np.float64]:
        """Mean absolute or mean squared error of each column; there must be a value in each."""
        means: NDArray[np.float64] = getattr(self, loss) / self.samples
        return means


def errors(predictions: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]]) -> Errors:
    """Errors of ``predictions`` [N, columns]; where ``targets`` [N, columns] is nan there is nothing to predict."""
    known = ~np.isnan(targets)
    difference = np.abs(np.where(known, np.asarray(predictions, np.float64) - targets, 0.0))
    with np.errstate(over="ignore"):
        first, second, fourth = ((difference**power).sum(axis=0) for power in (1, 2, 4))
    return Errors(first, second, fourth, known.sum(axis=0))


def scaled_score(loss: float, *, baseline: float, parent: float) -> float | None:
    """(L_avg - L) / (L_avg - L_parent): 1 is as good as the parent, 0 as the baseline.

    ``baseline`` is L_avg. The measure of heterogeneous tasks in MuDSC (Xu et al., CVPR 2024, 2403.01753). None where
    the parent is no better than the baseline, so that there is no scale.
    """
    return (baseline - loss) / (baseline - parent) if parent < baseline else None
