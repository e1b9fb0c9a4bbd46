"""From what was measured for one layer to its new weights: aim, solve, restore the deviation.

Averaging parents that disagree shrinks the variance of a target, and least squares shrinks what it cannot explain. So
the parents' mean is first spread, unit by unit, to the parents' own deviation s* (the mean of theirs),

    target = m + (T - m) s*/std(T)    less the merged shortcut, where the layer writes onto a stream,

and the solution is scaled once more so that the target tensor has the deviation s* in the merged network. What has no
bias is measured about zero, since its mean cannot be set apart: a unit that hardly varies about a large mean, such as
a coordinate that all classes share, must not be scaled by how little it varies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.merging.closed_form.accumulator import LayerStatistics
from onnxmerge.merging.closed_form.ridge import Problem, Sums, aimed, choose, moments, problem, ridge
from onnxmerge.types import Floats

DEAD = 1e-4
"""A target that varies less than this share of its parents is not spread, a unit that does is not scaled."""

FACTORS = (0.5, 2.0)
"""What a branch on a stream may be scaled by: the stream's deviation depends on its shortcut too."""


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """A layer y = W x + b: ``weight`` [groups, u, d] and ``bias`` [groups, u], with how well it does.

    ``ridge`` is the one chosen, relative to the mean diagonal, infinite where the weight is kept; ``error`` the mean
    squared error on held-out rows as a share of the target's variance. W x has the ``mean`` and the ``variance``
    [groups, u], which is its mean square where the layer has no bias.
    """

    weight: Floats
    bias: Floats
    ridge: float
    error: float
    mean: Floats
    variance: Floats


def solve(statistics: LayerStatistics, prior: Floats, *, biased: bool) -> Solution:
    """The layer that meets its target best; ``prior`` [groups, u, d] is its weight now, ``biased`` if it can shift.

    The sums of the statistics are used up.
    """
    fit, held = statistics.fit, statistics.held
    shape = fit.y.shape
    centre = None if biased else (np.zeros_like(fit.x), np.zeros(shape[1:]))
    wanted = statistics.deviation if biased else statistics.size
    mean, variance = moments((fit, held), _weights(shape, first=1.0))
    spread = _ratio(wanted, np.sqrt(variance if biased else variance + mean**2))
    aim = _weights(shape, first=spread, rest=-1.0)
    best, error = _chosen(problem(fit, aim, centre), aim, held, prior, biased=biased)
    total = fit.joined(held)
    whole = problem(total, aim, centre)
    weight = ridge(whole, prior, best)
    own = whole.spread(weight)
    if best < np.inf:  # a weight that is kept has the deviation, to what can be told
        factors = _factors(weight, own, total, centre, wanted)
        weight, own = weight * factors[:, :, None], own * factors**2
    offset = (1 - spread) * mean if biased else 0.0
    at = np.einsum("gud,gd->gu", weight, whole.x)
    return Solution(weight, whole.y + offset - at, best, error, at, own)


def _chosen(fit: Problem, aim: Floats, held: Sums, prior: Floats, *, biased: bool) -> tuple[float, float]:
    if not held.count:
        return choose(fit, fit, prior)
    about = (fit.x, fit.y) if biased else (np.zeros_like(fit.x), np.zeros_like(fit.y))
    return choose(fit, problem(held, aim, about), prior)


def _factors(weight: Floats, own: Floats, total: Sums, centre: tuple[Floats, Floats] | None, wanted: Floats) -> Floats:
    """What each unit is multiplied by so that the target tensor, shortcut included, has the deviation ``wanted``.

    ``own`` [groups, u] is the mean square of what the weight gives.
    """
    if len(total.y) == 1:
        return _ratio(wanted, np.sqrt(np.maximum(own, 0.0)))
    _, xy, yy = aimed(total, _weights(total.y.shape, rest=1.0), centre)
    both = np.einsum("gud,gdu->gu", weight, xy)
    root = both**2 - own * (yy - wanted**2)  # of own f^2 + 2 both f + shortcut = wanted^2
    solvable = (root > 0) & (own > (DEAD * wanted) ** 2)
    factors = (np.sqrt(np.maximum(root, 0.0)) - both) / np.where(solvable, own, 1.0)
    return np.where(solvable, np.clip(factors, *FACTORS), 1.0)


def _ratio(wanted: Floats, found: Floats) -> Floats:
    alive = found > DEAD * wanted
    return np.where(alive, wanted / np.where(alive, found, 1.0), 1.0)


def _weights(shape: tuple[int, ...], *, first: Floats | float = 0.0, rest: float = 0.0) -> Floats:
    """Coefficients [k, groups, u] of the targets: the parents' mean, then the shortcut."""
    found = np.full(shape, rest)
    found[0] = first
    return found
