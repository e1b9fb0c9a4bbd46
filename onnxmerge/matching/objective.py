"""How alike two models are under a matching, space by space and in all, in one pass over the weights.

A search measures one matching after another, and from one to the next most groups stay as they are; so what a block of
weights gave is kept until its units move, of whole matchings (which restarts meet again) what they came to, and for
good the sums over each unit, which no order changes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.matching.similarity import (
    PairOfModels,
    UnitSums,
    paired_columns,
    unit_sums,
    unit_view,
    weight_similarity,
)
from onnxmerge.types import Floats, Positions
from onnxmerge.units.groups import Occurrence, Plan
from onnxmerge.units.permutations import block_content, composite_shape, composite_sources


@dataclass(frozen=True, slots=True)
class ModelSimilarity:
    """``total`` is what the sweeps maximise; ``mean`` the mean similarity of the matched units of each space.

    The similarity is the mix of correlations that the method uses. An outer space with no slices of its own has the
    mean of the spaces inside it.
    """

    total: float
    mean: Mapping[str, float]


def measure(pair: PairOfModels, perms: Mapping[str, Positions]) -> ModelSimilarity:
    """Compare the first model with the other under ``perms``."""
    return ObjectiveFunction(pair)(perms)


Order: TypeAlias = Mapping[str, bytes]
"""Digest of each space's permutation."""


@dataclass(frozen=True, slots=True, eq=False)
class _EachUnit:
    """Sums of the weights of each unit at one place of a block, and of their squares, [units], in both models.

    Units stand in their own order; so many ``features`` are added up.
    """

    x: Floats
    xx: Floats
    y: Floats
    yy: Floats
    features: int


_OfUnits: TypeAlias = Mapping[tuple[int, int], _EachUnit]
"""By the index of an occurrence of a block, and a leaf of it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """What one block gave with its units in one order: sums by space, and its part of the models' inner product."""

    order: tuple[bytes | None, ...]
    sums: tuple[tuple[str, UnitSums], ...]
    inner_product: float


@dataclass(frozen=True, slots=True, eq=False)
class ObjectiveFunction:
    """Compares the first model of ``pair`` with the other under one matching after another."""

    pair: PairOfModels
    _blocks: dict[int, _Found] = field(default_factory=dict)
    _units: dict[int, _OfUnits | None] = field(default_factory=dict)
    _matchings: dict[tuple[tuple[str, bytes], ...], ModelSimilarity] = field(default_factory=dict)

    def __call__(self, perms: Mapping[str, Positions]) -> ModelSimilarity:
        """How alike the models are under ``perms``."""
        order = {name: _digest(perm) for name, perm in perms.items()}
        whole = tuple(sorted(order.items()))
        if whole not in self._matchings:
            self._matchings[whole] = _similarity(self.pair, perms, *self._sums(perms, order))
        return self._matchings[whole]

    def by_unit(self, perms: Mapping[str, Positions]) -> dict[str, Floats]:
        """The correlation of each unit's weight vector with its partner's, by space; those without a vector left out.

        Units [units] stand in the order of the first model, flattened over their outer spaces.
        """
        sums, _ = self._sums(perms, {name: _digest(perm) for name, perm in perms.items()})
        return {name: weight_similarity(into) for name, into in sums.items() if into.features}

    def varying(self, perms: Mapping[str, Positions]) -> dict[str, NDArray[np.bool_]]:
        """Of the same units: whether the unit or its partner has a weight vector that is not constant.

        Constant ones, as of dead or pruned units, correlate with nothing, be they equal or not.
        """
        sums, _ = self._sums(perms, {name: _digest(perm) for name, perm in perms.items()})
        return {name: np.any(into.scales(), axis=0) for name, into in sums.items() if into.features}

    def _sums(self, perms: Mapping[str, Positions], order: Order) -> tuple[dict[str, UnitSums], float]:
        """Sums over the weight vectors of units and their partners, and the inner product of all matched weights."""
        plan = self.pair.plan
        sums = {
            name: unit_sums(math.prod(composite_shape(name, plan.spaces)), paired=True)
            for group in plan.groups.values()
            for name in group.members
        }
        inner_product = 0.0
        for key, occurrences in _by_block(self.pair).items():
            own = tuple(order.get(name) for name in occurrences[0].block.spaces)
            if key not in self._blocks or self._blocks[key].order != own:
                if key not in self._units:
                    self._units[key] = _of_units(self.pair, occurrences)
                sums_and_product = _sums_of_matched_units(self.pair, occurrences, perms, self._units[key])
                self._blocks[key] = _Found(own, *sums_and_product)
            found = self._blocks[key]
            inner_product += found.inner_product
            for name, part in found.sums:
                sums[name].add(part)
        return sums, inner_product


def _digest(perm: Positions) -> bytes:
    return hashlib.blake2b(perm.tobytes(), digest_size=16).digest()


def _similarity(
    pair: PairOfModels, perms: Mapping[str, Positions], sums: Mapping[str, UnitSums], inner_product: float
) -> ModelSimilarity:
    correlations, means = 0.0, {}
    for name, into in sums.items():
        alpha, seen = pair.alphas[name], name in pair.activations
        share = (alpha if into.features else 0.0) + (1.0 - alpha if seen else 0.0)
        if not share:
            continue
        similarity = alpha * weight_similarity(into)
        if seen:
            similarity += (1.0 - alpha) * matched_activations(pair, name, perms)
        correlations += float(similarity.sum())
        means[name] = float(similarity.mean()) / share
    return ModelSimilarity(inner_product if pair.objective == "inner" else correlations, _with_outer(pair, means))


def _sums_of_matched_units(
    pair: PairOfModels, occurrences: Sequence[Occurrence], perms: Mapping[str, Positions], known: _OfUnits | None
) -> tuple[tuple[tuple[str, UnitSums], ...], float]:
    """What a block adds to the sums over its units and their partners, by space, and its part of the inner product.

    ``known`` are the sums over each unit; None where some weight is infinite.
    """
    plan, layout, block = pair.plan, occurrences[0].layout, occurrences[0].block
    contents = (
        block_content(pair.first[layout.name], layout, block, plan.spaces, {}),
        block_content(pair.other[layout.name], layout, block, plan.spaces, perms),
    )
    found: list[tuple[str, UnitSums]] = []
    inner_product = 0.0
    for place, occurrence in enumerate(occurrences):
        for leaf in occurrence.leaves:
            name = occurrence.labels[leaf]
            if known is None:
                into = _without_infinite(plan, contents, occurrence, leaf)
            else:
                each, partners = known[place, leaf], _partners(pair, name, perms)
                products = _by_unit(plan, occurrence, leaf, *contents)
                into = UnitSums(products, each.x, each.xx, each.y[partners], each.yy[partners], each.features)
            if not found:  # the units of every view add up to the same product of the whole block: count one
                inner_product = float(into.products.sum())
            found.append((name, into))
    return tuple(found), inner_product


def _without_infinite(
    plan: Plan, contents: tuple[NDArray[Any], NDArray[Any]], occurrence: Occurrence, leaf: int
) -> UnitSums:
    """Sums over units and their partners, over the features that are finite in all of both."""
    into = unit_sums(math.prod(composite_shape(occurrence.labels[leaf], plan.spaces)), paired=True)
    x, y = (unit_view(content, occurrence, plan) for content in contents)
    for columns_x, columns_y in paired_columns(occurrence, leaf, x, y):
        into.products += np.einsum("uf,uf->u", columns_x, columns_y)
        into.add_units(columns_x, columns_y)
    return into


def _of_units(pair: PairOfModels, occurrences: Sequence[Occurrence]) -> _OfUnits | None:
    """The sums over each unit of a block, which hold in whatever order its features stand, unless some are infinite."""
    plan, layout, block = pair.plan, occurrences[0].layout, occurrences[0].block
    first, other = (
        block_content(weights[layout.name], layout, block, plan.spaces, {}) for weights in (pair.first, pair.other)
    )
    if not (np.isfinite(first).all() and np.isfinite(other).all()):
        return None
    found: dict[tuple[int, int], _EachUnit] = {}
    for place, occurrence in enumerate(occurrences):
        for leaf in occurrence.leaves:
            x, xx, y, yy = (
                _by_unit(plan, occurrence, leaf, *factors)
                for factors in ((first,), (first, first), (other,), (other, other))
            )
            found[place, leaf] = _EachUnit(x, xx, y, yy, first.size // max(len(x), 1))
    return found


def _by_unit(plan: Plan, occurrence: Occurrence, leaf: int, *factors: NDArray[Any]) -> Floats:
    """Sums of products [units] over all features of the units at one place of a block, in float64."""
    block = occurrence.block
    slots = [(axis, place) for axis, each in enumerate(block.axes) for place in range(len(each.spaces))]
    chain = [slots.index(occurrence.kept[place]) for place in (*occurrence.outer[leaf], leaf)]
    sizes, axes = [plan.spaces[name].size for name in block.spaces], [*range(len(slots))]
    operands: list[Any] = []
    for factor in factors:
        # einsum widens what it knows in its own buffer
        known = factor if factor.dtype in (np.float32, np.float64) else factor.astype(np.float64)
        operands += [known.reshape(sizes), axes]
    found: Floats = np.einsum(*operands, chain, dtype=np.float64)
    return found.reshape(-1)


def _by_block(pair: PairOfModels) -> dict[int, list[Occurrence]]:
    """Occurrences by the block they are in, so that each block is read and aligned once for all its groups."""
    blocks: dict[int, list[Occurrence]] = {}
    for group in pair.plan.groups.values():
        for occurrence in group.occurrences:
            if any(pair.alphas[occurrence.labels[leaf]] for leaf in occurrence.leaves):
                blocks.setdefault(id(occurrence.block), []).append(occurrence)
    return blocks


def matched_activations(pair: PairOfModels, name: str, perms: Mapping[str, Positions]) -> Floats:
    """The correlation of each composite unit's activations with those of its partner, [units]."""
    partners = _partners(pair, name, perms)
    matched: Floats = pair.activations[name][np.arange(len(partners)), partners]
    return matched


def _partners(pair: PairOfModels, name: str, perms: Mapping[str, Positions]) -> Positions:
    """For each composite unit of the first model, flattened, which of the other is its partner."""
    shape = composite_shape(name, pair.plan.spaces)
    partners = np.ravel_multi_index(composite_sources(name, pair.plan.spaces, perms), shape)
    return np.broadcast_to(partners, shape).reshape(-1)


def _with_outer(pair: PairOfModels, means: Mapping[str, float]) -> dict[str, float]:
    """The means in the order of the plan, with those of outer spaces that have no slices of their own."""
    found = dict(means)
    for group in pair.plan.groups.values():
        for name in reversed(group.members):
            inside = [found[child] for child in group.children[name] if child in found]
            if name not in found and inside:
                found[name] = sum(inside) / len(inside)
    return {name: found[name] for group in pair.plan.groups.values() for name in group.members if name in found}
