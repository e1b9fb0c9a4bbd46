"""What is asked of activations over a calibration source, and what is known of them then: for matching and repair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxmerge.activations.moments import Moments, together
from onnxmerge.calibration.batches import Widths, in_groups
from onnxmerge.types import Floats

DEAD = 1e-10
"""A unit whose variance is below this share of its mean square is constant up to float32 rounding."""


@dataclass(frozen=True, slots=True)
class GramRequest:
    """Products between the models' units of a space, pooled over the activations ``tensors`` (template names)."""

    space: str
    tensors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MomentRequest:
    """Mean and variance of each unit of a space in one activation (template name), in each model."""

    tensor: str
    space: str


@dataclass(frozen=True, slots=True, eq=False)
class Gram:
    """Sums over all samples of a space's units, row-major over its outer spaces and itself (n units, M models).

    ``sums`` and ``squares`` [M, n]; ``cross[i, j]`` [n, n] is the sum of x_i y_j, for the pairs asked for.
    """

    count: int
    sums: Floats
    squares: Floats
    cross: Mapping[tuple[int, int], Floats]

    def covariance(self, i: int, j: int) -> Floats:
        """Covariance [n, n] of the units of model i (rows) with those of model j.

        Raises:
            KeyError: products of these two models were not asked for.

        """
        if (i, j) not in self.cross and (j, i) in self.cross:
            return self.covariance(j, i).T
        covariance: Floats = self.cross[i, j] / self.count
        covariance -= np.outer(self.sums[i] / self.count, self.sums[j] / self.count)
        return covariance

    def variance(self, model: int) -> Floats:
        """Variance [n]; exactly 0 for units that are constant up to rounding."""
        return variance_of(self.count, self.sums[model], self.squares[model])

    def correlation(self, i: int, j: int) -> Floats:
        """Pearson correlation [n, n] of the units of model i (rows) with those of model j; 0 where a unit is dead.

        Raises:
            KeyError: products of these two models were not asked for.

        """
        rows, columns = np.sqrt(self.variance(i)), np.sqrt(self.variance(j))
        scale = np.outer(rows, columns)
        # "divide" leaves the zeros of `out` where a deviation is zero.
        ratio: Floats = np.divide(self.covariance(i, j), scale, out=np.zeros_like(scale), where=scale > 0)
        ratio.clip(-1.0, 1.0, out=ratio)
        return ratio

    def correlations(self, models: int) -> Floats:
        """Pearson correlation [models * n, models * n] of the units of all models, model after model.

        Units are scaled by the very products that compare them, so that those that always say the same are equals,
        in one model as in two: what float32 leaves of their difference is the same in both.

        Raises:
            KeyError: products of some two models, or inside one, were not asked for.

        """
        live = np.concatenate([self.variance(model) > 0 for model in range(models)])
        found = np.block([[self.covariance(i, j) for j in range(models)] for i in range(models)])
        variances = np.where(live, np.diagonal(found), 0.0)
        scale = np.sqrt(variances.clip(min=0.0))
        scale = np.outer(scale, scale)
        ratio: Floats = np.divide(found, scale, out=np.zeros_like(scale), where=scale > 0)
        ratio.clip(-1.0, 1.0, out=ratio)
        return ratio


@dataclass(frozen=True, slots=True, eq=False)
class FeedMoments:
    """What probes saw in a feed of so many ``samples``: ``own[m][tensor]``, channel by channel, in model m."""

    samples: int
    widths: Widths
    own: tuple[Mapping[str, Moments], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """``gram`` by space id; ``moments`` by (model, tensor, space id).

    ``probed`` are the tensors that probes measured, ``feeds`` what they saw in each feed, in order.

    A space without an entry in ``gram`` has no comparable samples: in every tap other free units stand where samples
    should be, and these are not in the same order in all models.
    """

    gram: Mapping[str, Gram]
    moments: Mapping[tuple[int, str, str], Moments]
    probed: tuple[str, ...] = ()
    feeds: tuple[FeedMoments, ...] = ()

    def by_batch(self, model: int) -> list[dict[str, Moments]]:
        """What probes saw in a model in each of the batches that ``calibration.batches.grouped`` makes of the feeds."""
        groups = in_groups(self.feeds, lambda feed: (feed.samples, feed.widths))
        return [together(feed.own[model] for feed in group) for group in groups]


def variance_of(count: int, sums: Floats, squares: Floats) -> Floats:
    """Variances of units [n], of their sums and sums of squares; exactly 0 for those constant up to rounding."""
    mean_square = squares / count
    variance: Floats = mean_square - (sums / count) ** 2
    return np.where(variance > DEAD * mean_square, variance, 0.0)
