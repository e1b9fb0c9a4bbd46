"""Products of the units of two models by their weights, kept from one visit of a group to the next.

A sweep visits a group again where its neighbours moved, and after the first sweeps few of their units do. What is kept
is the sum of products over all features of all weights; where some features now come from elsewhere, only these are
computed: the product with what they are, less what they were. Sums over each unit are the same in whatever order its
features stand.

Products are of float32, as the weights are, and added up in float64; a product of small groups is of float64, as there
is nothing to gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.matching.similarity import UnitSums, unit_sums, unit_view
from onnxmerge.types import Floats, Positions
from onnxmerge.units.groups import Group, Occurrence, Plan
from onnxmerge.units.layout import Space
from onnxmerge.units.permutations import bind, block_content, composite_shape, is_still

KEPT_BYTES = 1 << 29
"""Products of so many bytes are kept, those that cost most for their size; the others are computed anew when needed.
Sweeps visit all groups in turn, so to drop what was used longest ago would be to drop what is needed next."""

WORTH = 1 << 26
"""Multiply-adds of a group's products from which on it is worth to form them here: some milliseconds."""

COLUMNS = 4096
"""Features of one product of float32: its rounding grows with their number."""

NEARLY_ALL = 0.75
"""Where more than this share of all features moved, all are computed anew, so that no rounding builds up."""

Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """Sums over the weight vectors of a group's units, by space, with the features of each occurrence in some order."""

    sums: Mapping[str, UnitSums]
    orders: list[Positions]


@dataclass(frozen=True, slots=True, eq=False)
class ProductsOfPair:
    """The products of the groups of two models; ``first`` and ``other`` are their weights.

    Several threads may ask, each for groups of its own.
    """

    plan: Plan
    first: Weights
    other: Weights
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _infinite: set[str] = field(default_factory=set)
    _worth: Mapping[str, bool] = field(init=False)

    def __post_init__(self) -> None:
        """Choose whose products are formed here (a key), and which of them are kept (its value)."""
        object.__setattr__(self, "_worth", _worth(self.plan))

    def __call__(self, group: Group, perms: Mapping[str, Positions]) -> Mapping[str, UnitSums] | None:
        """The sums over weight vectors of a group's units, by space, under the others' permutations. Not to be changed.

        None where the group is small or not the plan's own, weights are infinite, or the similarity of two of its
        spaces depends on each other.
        """
        if group is not self.plan.groups[group.root] or group.root not in self._worth or group.root in self._infinite:
            return None
        orders = [feature_order(each, self.plan.spaces, perms) for each in group.occurrences]
        kept = self._kept.pop(group.root, None)
        moved = (
            [] if kept is None else [np.flatnonzero(old != new) for old, new in zip(kept.orders, orders, strict=True)]
        )
        if kept is None or sum(map(len, moved)) > NEARLY_ALL * sum(map(len, orders)):
            kept = self._anew(group, orders)
        else:
            for occurrence, columns, old, new in zip(group.occurrences, moved, kept.orders, orders, strict=True):
                if len(columns):
                    x, y = self._sides(occurrence)
                    change = y[:, new[columns]] - y[:, old[columns]]
                    _add_products(kept.sums[_space(occurrence)].products, x[:, columns], change)
            kept = _Kept(kept.sums, orders)
        if kept is None:
            self._infinite.add(group.root)
            return None
        if self._worth[group.root]:
            self._kept[group.root] = kept
        return kept.sums

    def _anew(self, group: Group, orders: Sequence[Positions]) -> _Kept | None:
        """All products; None where a weight is infinite, as its features count only where both models' are finite."""
        sizes = {name: math.prod(composite_shape(name, self.plan.spaces)) for name in group.members}
        sums = {name: unit_sums(size, paired=False) for name, size in sizes.items()}
        for occurrence, order in zip(group.occurrences, orders, strict=True):
            x, y = self._sides(occurrence)
            if not (np.isfinite(x).all() and np.isfinite(y).all()):
                return None
            into = sums[_space(occurrence)]
            for columns in _slices(x.shape[1]):
                into.add_units(x[:, columns].astype(np.float64), y[:, columns].astype(np.float64))
            _add_products(into.products, x, y if is_still(order) else y[:, order])
        return _Kept(sums, list(orders))

    def _sides(self, occurrence: Occurrence) -> tuple[NDArray[Any], NDArray[Any]]:
        """Both models' weights [units, features], as they stand, in float32 unless they are wider."""
        layout, block, spaces = occurrence.layout, occurrence.block, self.plan.spaces
        leaf = occurrence.leaves[0]
        chain = (*occurrence.outer[leaf], leaf)
        sides = []
        for weights in (self.first, self.other):
            content = block_content(weights[layout.name], layout, block, spaces, {})
            view = unit_view(content, occurrence, self.plan).transpose(*chain, -1)
            flat = view.reshape(-1, view.shape[-1])
            sides.append(flat if flat.dtype.itemsize > 4 else flat.astype(np.float32, copy=False))
        return sides[0], sides[1]


def feature_order(occurrence: Occurrence, spaces: Mapping[str, Space], perms: Mapping[str, Positions]) -> Positions:
    """Which of a unit's features in the other model comes to each place of the first's, [features]."""
    block = occurrence.block
    slots = [(axis, place) for axis, each in enumerate(block.axes) for place in range(len(each.spaces))]
    names = dict(zip(slots, block.spaces, strict=True))
    rest = [slot for slot in slots if slot not in occurrence.kept]
    sizes = [spaces[names[slot]].size for slot in rest]
    grid = dict(zip(rest, np.ix_(*map(np.arange, sizes)), strict=True))
    sources = [
        perms[names[slot]][tuple(grid[each] for each in (*bind(occurrence.layout.name, block, slot, spaces), slot))]
        if slot in occurrence.moved and names[slot] in perms
        else grid[slot]
        for slot in rest
    ]
    if not rest:
        return np.zeros(1, np.int64)
    found = np.ravel_multi_index(tuple(np.broadcast_to(each, sizes) for each in sources), sizes)
    return found.reshape(-1).astype(np.int64, copy=False)


def _worth(plan: Plan) -> dict[str, bool]:
    """The groups whose products cost enough, each similarity being a sum of products alone, and whether they are kept.

    Those that cost most for each byte are, as long as there is room.
    """
    found: dict[str, bool] = {}
    costs, sizes = dict[str, int](), dict[str, int]()
    for root, group in plan.groups.items():
        if any(each.linked for each in group.occurrences):
            continue
        units = {name: math.prod(composite_shape(name, plan.spaces)) for name in group.members}
        costs[root] = sum(
            units[_space(each)] * math.prod(plan.spaces[name].size for name in each.block.spaces)
            for each in group.occurrences
        )
        sizes[root] = 8 * sum(size**2 for size in units.values())
    left = KEPT_BYTES
    for root in sorted(costs, key=lambda name: -costs[name] / max(sizes[name], 1)):
        if costs[root] >= WORTH:
            found[root] = sizes[root] <= left
            left -= sizes[root] if found[root] else 0
    return found


def _space(occurrence: Occurrence) -> str:
    return occurrence.labels[occurrence.leaves[0]]


def _add_products(into: Floats, x: NDArray[Any], y: NDArray[Any]) -> None:
    """Add the products of rows, x y^T."""
    for columns in _slices(x.shape[1]):
        into += x[:, columns] @ y[:, columns].T


def _slices(features: int) -> Iterator[slice]:
    return (slice(start, start + COLUMNS) for start in range(0, features, COLUMNS))
