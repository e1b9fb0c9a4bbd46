"""Which groups to widen, and in which order: a ladder of widths, each at least as wide everywhere as the one before it.

A group of M models in which n units are merged into w has room for w directions of what all models' units do there,
and these hold the share s(w) of its variance (``activations.joint``). What has no room is lost to every layer that
reads the group. So a step that widens a group by a quarter of a model's units is worth

    (s(after) - s(before)) readers / cost,

with ``readers`` the number of weights that take the group in, and the cost what the step adds to a network that has all
other groups as they are in a model. Steps are taken in the order of their worth: a residual stream, which every block
reads, comes before what one layer reads, unless it has room already or costs far more. The order is our own.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from onnxmerge.activations.joint import JointVariance

Fractions: TypeAlias = Mapping[str, float]
"""Group id -> its merged units for each unit of a model, where that is not 1."""

STEP = 0.25
"""Of a model's units."""

RUNGS = 8
"""Rungs above the first, at most: evenly apart in the logarithm of what they cost."""


@dataclass(frozen=True, slots=True)
class Widenable:
    """A group that can have another width: ``size`` units in each model, read by so many weights.

    ``variance`` is None where nothing is known of what its units do: then nothing is gained by more of them.
    """

    id: str
    size: int
    readers: int
    variance: JointVariance | None

    def gain(self, before: float, after: float) -> float:
        """How much more of the variance has room at a fraction than at a smaller one, for all that read it."""
        if self.variance is None:
            return 0.0
        share = [self.variance.share(round(fraction * self.size)) for fraction in (before, after)]
        return (share[1] - share[0]) * self.readers


def ladder(groups: Sequence[Widenable], models: int, cost: Callable[[Fractions], int]) -> list[Fractions]:
    """Widths from those of one model to those of all ``models`` side by side; ``cost`` is what a network at them costs.

    The first has every group as it is in a model, the last is as wide as all models together. Costs rise from each to
    the next.
    """
    steps = _in_order(groups, models, cost)

    def at(taken: int) -> Fractions:
        return dict(steps[:taken])

    def cost_at(taken: int) -> int:
        return cost(at(taken))

    lowest, highest = cost_at(0), cost_at(len(steps))
    found, known = [at(0)], lowest
    for rung in range(1, RUNGS):
        most = lowest * (highest / max(lowest, 1)) ** (rung / RUNGS)
        taken = bisect_right(range(len(steps)), most, key=cost_at) - 1
        if taken > 0 and known < (now := cost_at(taken)) < highest:
            found.append(at(taken))
            known = now
    return [*found, at(len(steps))] if highest > lowest else found


def _in_order(groups: Sequence[Widenable], models: int, cost: Callable[[Fractions], int]) -> list[tuple[str, float]]:
    """Every step as (group, fraction after it), that of the highest worth first, those of a group from small to large.

    What is worth the same is in the order of the groups.
    """
    plain, steps = cost({}), list[tuple[float, str, float]]()
    fractions = [1 + STEP * step for step in range(round((models - 1) / STEP) + 1)]
    for group in groups:
        price = max(cost({group.id: float(models)}) - plain, 1) / (len(fractions) - 1)
        worth = math.inf
        for before, after in pairwise(fractions):
            worth = min(worth, group.gain(before, after) / price)  # never before a smaller one, whatever rounding does
            steps.append((worth, group.id, after))
    return [(name, after) for _, name, after in sorted(steps, key=lambda step: -step[0])]
