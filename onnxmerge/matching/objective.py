"""How alike two models are under a matching, space by space and in all, in one pass over the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxmerge.axes.layout import Positions
from onnxmerge.matching.plan import Occurrence
from onnxmerge.matching.problem import Array
from onnxmerge.matching.similarity import PairOfModels, UnitSums, unit_columns, unit_sums, unit_view, weight_similarity
from onnxmerge.merging.transport import composite_shape, composite_sources, gather


@dataclass(frozen=True, slots=True)
class Likeness:
    """``total`` is what the sweeps maximise; ``mean`` the mean similarity of the matched units of each space.

    The similarity is the mix of correlations that the method uses. An outer space with no slices of its own has the
    mean of the spaces inside it.
    """

    total: float
    mean: Mapping[str, float]


def measure(pair: PairOfModels, perms: Mapping[str, Positions]) -> Likeness:
    """Compare the first model with the other under ``perms``."""
    sums, inner_product = _sums_of_matched_units(pair, perms)
    correlations, means = 0.0, {}
    for name, into in sums.items():
        alpha, seen = pair.alphas[name], name in pair.activations
        share = (alpha if into.features else 0.0) + (1.0 - alpha if seen else 0.0)
        if not share:
            continue
        similarity = alpha * weight_similarity(into, "correlation")[0]
        if seen:
            similarity += (1.0 - alpha) * _matched_activations(pair, name, perms)
        correlations += float(similarity.sum())
        means[name] = float(similarity.mean()) / share
    return Likeness(inner_product if pair.objective == "inner" else correlations, _with_outer(pair, means))


def _sums_of_matched_units(pair: PairOfModels, perms: Mapping[str, Positions]) -> tuple[dict[str, UnitSums], float]:
    """Sums over the weight vectors of units and their partners, and the inner product of all matched weights."""
    plan = pair.plan
    sums = {
        name: unit_sums(math.prod(composite_shape(name, plan.spaces)), paired=True)
        for group in plan.groups.values()
        for name in group.members
    }
    inner_product = 0.0
    for occurrences in _by_block(pair).values():
        layout, block = occurrences[0].layout, occurrences[0].block
        contents = (
            gather(pair.first[layout.name], layout, block, plan.spaces, {}),
            gather(pair.other[layout.name], layout, block, plan.spaces, perms),
        )
        views = 0
        for occurrence in occurrences:
            x, y = (unit_view(content, occurrence, plan) for content in contents)
            for leaf in occurrence.leaves:
                into = sums[occurrence.labels[leaf]]
                views += 1
                for columns_x, columns_y in unit_columns(x, y, occurrence, leaf):
                    products: Array = np.einsum("uf,uf->u", columns_x, columns_y)
                    into.products += products
                    into.add_units(columns_x, columns_y)
                    # The units of every view add up to the same product of the whole block: count one.
                    inner_product += float(products.sum()) if views == 1 else 0.0
    return sums, inner_product


def _by_block(pair: PairOfModels) -> dict[int, list[Occurrence]]:
    """Occurrences by the block they are in, so that each block is read and aligned once for all its groups."""
    blocks: dict[int, list[Occurrence]] = {}
    for group in pair.plan.groups.values():
        for occurrence in group.occurrences:
            if any(pair.alphas[occurrence.labels[leaf]] for leaf in occurrence.leaves):
                blocks.setdefault(id(occurrence.block), []).append(occurrence)
    return blocks


def _matched_activations(pair: PairOfModels, name: str, perms: Mapping[str, Positions]) -> Array:
    """The correlation of each composite unit's activations with those of its partner, [units]."""
    shape = composite_shape(name, pair.plan.spaces)
    partner = np.ravel_multi_index(composite_sources(name, pair.plan.spaces, perms), shape)
    units = np.arange(math.prod(shape))
    matched: Array = pair.activations[name][units, np.broadcast_to(partner, shape).reshape(-1)]
    return matched


def _with_outer(pair: PairOfModels, means: Mapping[str, float]) -> dict[str, float]:
    """The means in the order of the plan, with those of outer spaces that have no slices of their own."""
    found = dict(means)
    for group in pair.plan.groups.values():
        for name in reversed(group.members):
            inside = [found[child] for child in group.children[name] if child in found]
            if name not in found and inside:
                found[name] = sum(inside) / len(inside)
    return {name: found[name] for group in pair.plan.groups.values() for name in group.members if name in found}
