"""How alike the units of several models are where they stand, told by some of them: no large model is read for it.

Units are drawn at random, with replacement, from all that may move. The whole weight vectors of those that were drawn
are compared, each tensor read once for all models. Of n draws, each a correlation between -1 and 1, of mean m and
variance v, the mean over all units is with a probability of 1 - d at least

    m - sqrt(2 v ln(2 / d) / n) - 14 ln(2 / d) / (3 (n - 1))

whatever the weights are (Maurer and Pontil, COLT 2009, theorem 4, over a range of 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxmerge.matching.similarity import CHUNK_BYTES, UnitSums, unit_sums, weight_similarity
from onnxmerge.types import Array, Arrays, Floats, Positions
from onnxmerge.units.groups import Occurrence, Plan
from onnxmerge.units.permutations import block_content, composite_shape

DRAWN = 4096
"""Units that are drawn: the last term of the bound is then 0.024."""

DOUBT = 1e-9
"""Probability that the mean over all units is below the bound."""


def least_alike(plan: Plan, first: Arrays, others: Sequence[Arrays]) -> list[float | None]:
    """For each of the ``others`` a mean correlation of units' weight vectors with the first's that it hardly is below.

    Dead units are left out. None where that takes all units: there are few, or some weight is not finite.
    """
    drawn = _drawn(plan)
    if drawn is None:
        return [None] * len(others)
    units, counts = ({name: each[place] for name, each in drawn.items()} for place in (0, 1))
    with np.errstate(invalid="ignore", over="ignore"):  # of what is not finite nothing is told
        return [_least(into, counts) for into in sums_where_they_stand(plan, first, others, units)]


def sums_where_they_stand(
    plan: Plan, first: Arrays, others: Sequence[Arrays], units: Mapping[str, Positions]
) -> list[dict[str, UnitSums]]:
    """Sums over the weight vectors of some units [units] of each space, of the first model and of each of the others.

    Units are numbered in the order of their outer spaces, then of the space.
    """
    sums = [{name: unit_sums(len(own), paired=True) for name, own in units.items()} for _ in others]
    for occurrences in _blocks(plan):
        layout, block = occurrences[0].layout, occurrences[0].block
        x = block_content(first[layout.name], layout, block, plan.spaces, {})
        for own, into in zip(others, sums, strict=True):
            y = block_content(own[layout.name], layout, block, plan.spaces, {})
            for occurrence, leaf in ((each, leaf) for each in occurrences for leaf in each.leaves):
                name = occurrence.labels[leaf]
                if name in units:
                    _add(into[name], plan, occurrence, leaf, units[name], (x, y))
    return sums


def _drawn(plan: Plan) -> dict[str, tuple[Positions, Positions]] | None:
    """Of each space the units that were drawn, ascending, and how often each was; None where there are not many more.

    Spaces that have no weights of their own have no units to draw.
    """
    own = {each.labels[leaf] for group in plan.groups.values() for each in group.occurrences for leaf in each.leaves}
    names = [name for group in plan.groups.values() for name in group.members if name in own]
    ends = np.cumsum([math.prod(composite_shape(name, plan.spaces)) for name in names], dtype=np.int64)
    if not names or ends[-1] <= 2 * DRAWN:
        return None
    units, counts = np.unique(np.random.default_rng(0).integers(0, ends[-1], DRAWN), return_counts=True)
    cuts = [0, *np.searchsorted(units, ends)]
    parts = zip(names, (0, *ends[:-1]), cuts[:-1], cuts[1:], strict=True)
    return {
        name: (units[begin:end] - start, counts[begin:end].astype(np.int64))
        for name, start, begin, end in parts
        if begin < end
    }


def _blocks(plan: Plan) -> list[list[Occurrence]]:
    """The occurrences of each block, so that it is read once for all of them."""
    found: dict[int, list[Occurrence]] = {}
    for group in plan.groups.values():
        for occurrence in group.occurrences:
            found.setdefault(id(occurrence.block), []).append(occurrence)
    return [*found.values()]


def _add(
    into: UnitSums, plan: Plan, occurrence: Occurrence, leaf: int, units: Positions, contents: tuple[Array, Array]
) -> None:
    """Add what stands in a block to the sums over these units of both models, some of them at a time."""
    block, chain = occurrence.block, [occurrence.kept[place] for place in (*occurrence.outer[leaf], leaf)]
    slots = [(axis, place) for axis, each in enumerate(block.axes) for place in range(len(each.spaces))]
    sizes = [plan.spaces[name].size for name in block.spaces]
    kept = [slots.index(slot) for slot in chain]
    order = (*kept, *(place for place in range(len(slots)) if place not in kept))
    x, y = (content.reshape(sizes).transpose(order) for content in contents)
    shape, rest = x.shape[: len(kept)], math.prod(x.shape[len(kept) :])
    step = max(1, CHUNK_BYTES // (8 * max(rest, 1)))
    for begin in range(0, len(units), step):
        part = slice(begin, begin + step)
        where = np.unravel_index(units[part], shape)
        own, others = (side[where].reshape(-1, rest).astype(np.float64) for side in (x, y))
        into.products[part] += np.einsum("uf,uf->u", own, others)
        into.x[part] += own.sum(axis=1)
        into.y[part] += others.sum(axis=1)
        into.xx[part] += np.einsum("uf,uf->u", own, own)
        into.yy[part] += np.einsum("uf,uf->u", others, others)
    into.features += rest


def _least(sums: Mapping[str, UnitSums], counts: Mapping[str, Positions]) -> float | None:
    """What the mean over all units hardly is below, of sums over those that were drawn."""
    found, times = list[Floats](), list[Positions]()
    for name, into in sums.items():
        alive = np.any(into.scales(), axis=0)
        found.append(weight_similarity(into)[alive])
        times.append(counts[name][alive])
    values, weights = np.concatenate(found), np.concatenate(times)
    draws = int(weights.sum())
    if draws < 2 or not np.isfinite(values).all():
        return None
    mean = float(weights @ values) / draws
    variance = float(weights @ (values - mean) ** 2) / (draws - 1)
    doubt = math.log(2 / DOUBT)
    return mean - math.sqrt(2 * variance * doubt / draws) - 14 * doubt / (3 * (draws - 1))
