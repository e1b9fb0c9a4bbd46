"""Similarity between the units of all models together, in weight space, in activation space, and mixed.

A unit's weight vector has its neighbours' axes projected by the very matrices that merging uses (``zip_transport``):
where a neighbour's units are taken in they are added up, where they are given their mean is taken. Outer units always
stand in the first model's order, so a space that varies with them is compared inside matched outer units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.matching.problem import GroupProblem
from onnxmerge.matching.similarity import CHUNK_BYTES, PairOfModels, finite_features, inverse_norm, problem_of
from onnxmerge.types import Floats, Positions
from onnxmerge.units.groups import Group, Occurrence, Plan
from onnxmerge.units.layout import Typing
from onnxmerge.units.permutations import composite, composite_shape
from onnxmerge.units.resize import Widths, resized_spaces
from onnxmerge.units.zips import Projections, Zipped, member_counts, project, slots_of


@dataclass(frozen=True, slots=True, eq=False)
class ModelsToZip:
    """What there is to compare: weights of all models, and how their activations correlate.

    ``activations`` has the units of all models on both sides, model after model; ``alphas`` as in PairOfModels.
    ``given_shares`` are the models' shares in the merged units, if they are not equal. ``widths`` says how many merged
    units are wanted of a plain space, where that is not the number of a model's units.
    """

    plan: Plan
    typing: Typing
    weights: Sequence[Mapping[str, NDArray[Any]]]
    activations: Mapping[str, Floats]
    alphas: Mapping[str, float]
    given_shares: Sequence[float] | None = None
    widths: Widths = field(default_factory=dict)

    @property
    def models(self) -> int:
        return len(self.weights)

    @property
    def shares(self) -> Sequence[float]:
        return [1 / self.models] * self.models if self.given_shares is None else self.given_shares


def zipped_spaces(group: Group) -> list[str]:
    """The spaces of a group that are zipped: those that hold no others. The others are permuted."""
    return [name for name in group.members if not group.children[name]]


def similarities(models: ModelsToZip, group: Group, name: str, zips: Zipped) -> Iterator[Floats]:
    """S = alpha W + (1 - alpha) A of a space's units under the other spaces' zip.

    One matrix [models * size, models * size] for each combination of outer units, in the first model's order.
    """
    alpha = models.alphas[name]
    sums = Sums(*shape_of(models, name))
    products = np.zeros((sums.outer, sums.units, sums.units))
    for vectors in unit_vectors(models, group, name, zips) if alpha else ():
        sums.add(vectors)
        for outer, units in enumerate(vectors):
            products[outer] += units @ units.T
    order = in_order(models, name, zips) if name in models.activations else None
    scales = sums.scales()
    for outer in range(sums.outer):
        similarity = products[outer]
        similarity -= np.outer(sums.total[outer], sums.total[outer] / max(sums.features, 1))
        similarity *= alpha * scales[outer, :, None]
        similarity *= scales[outer]
        if order is not None:
            similarity += (1 - alpha) * taken(models.activations[name], order[outer])
        yield similarity


def outer_problem(models: ModelsToZip, group: Group, other: int, zips: Zipped) -> GroupProblem:
    """The problem of aligning the outer units of a group, of one model with those of the first."""
    typing, plan = models.typing, models.plan
    merged = resized_spaces(plan.spaces, zips.widths)

    def contents(occurrence: Occurrence) -> tuple[Floats, Floats]:
        layout, block = occurrence.layout, occurrence.block
        counts = member_counts(layout, block, typing, zips, models.shares, occurrence.moved)
        shape = [math.prod(merged[name].size for name in axis.spaces) for axis in block.axes]
        views = []
        for model in (0, other):
            array, labels = models.weights[model][layout.name], zips.models[model]
            content = project(array, layout, block, plan.spaces, labels, occurrence.moved, widths=zips.widths)
            views.append(_per_member(content, counts).reshape(shape))
        return views[0], views[1]

    seen = {name: _between(similarity, models.models, other) for name, similarity in models.activations.items()}
    around = replace(plan, spaces=merged)
    pair = PairOfModels(around, models.weights[0], models.weights[other], seen, models.alphas)
    return problem_of(pair, group, contents)


def placed(models: ModelsToZip, name: str, zips: Zipped, labels: Positions) -> list[Positions]:
    """Labels [models, outer units in the first model's order, size] as each model's own (see ``Projections``)."""
    shape = composite_shape(name, models.plan.spaces)
    own = []
    for model, found in zip(zips.models, labels, strict=True):
        each = np.empty_like(found)
        each[_outer_order(models, name, model)] = found
        own.append(each.reshape(shape))
    return own


class Sums:
    """Sums over weight vectors, one for each unit [outer, units]."""

    def __init__(self, outer: int, units: int) -> None:
        self.outer, self.units, self.features = outer, units, 0
        self.total, self.squares = np.zeros((outer, units)), np.zeros((outer, units))

    def add(self, vectors: Floats) -> None:
        """Add columns [outer, units, features]."""
        self.total += vectors.sum(axis=2)
        self.squares += np.einsum("ouf,ouf->ou", vectors, vectors)
        self.features += vectors.shape[2]

    def scales(self) -> Floats:
        """One over the norm of each centred vector; 0 for a constant one."""
        return inverse_norm(self.total, self.squares, self.features)


def shape_of(models: ModelsToZip, name: str) -> tuple[int, int]:
    """The number of combinations of outer units, and of units inside one in all models together."""
    *outers, size = composite_shape(name, models.plan.spaces)
    return math.prod(outers), models.models * size


def merged_size(models: ModelsToZip, name: str, zips: Zipped) -> int:
    """How many merged units of a space there are (inside one outer unit)."""
    return zips.widths.get(name, models.plan.spaces[name].size)


def unit_vectors(models: ModelsToZip, group: Group, name: str, zips: Zipped) -> Iterator[Floats]:
    """Parts of the units' weight vectors [outer, models * size, features], a bounded number of columns at a time.

    Features in which some unit is not finite are left out.
    """
    spaces = models.plan.spaces
    outer, units = shape_of(models, name)
    step = max(1, CHUNK_BYTES // (8 * outer * units))
    for occurrence in group.occurrences:
        layout, block = occurrence.layout, occurrence.block
        for leaf in (place for place in occurrence.leaves if occurrence.labels[place] == name):
            own = occurrence.kept[leaf]
            others = [slot for slot in slots_of(block) if slot != own]
            counts = member_counts(layout, block, models.typing, zips, models.shares, others)
            views = []
            for weights, labels in zip(models.weights, zips.models, strict=True):
                content = project(weights[layout.name], layout, block, spaces, labels, others, widths=zips.widths)
                view = _chain_first(_per_member(content, counts), occurrence, leaf)
                views.append(view.reshape(outer, units // models.models, -1))
            stacked = np.concatenate(views, axis=1)
            for begin in range(0, stacked.shape[2], step):
                yield finite_features(stacked[:, :, begin : begin + step])[0]


def _chain_first(content: Floats, occurrence: Occurrence, leaf: int) -> Floats:
    """A block by slots, with those of a unit and its outer units in front."""
    every = slots_of(occurrence.block)
    chain = [every.index(occurrence.kept[place]) for place in (*occurrence.outer[leaf], leaf)]
    return content.transpose([*chain, *(axis for axis in range(len(every)) if axis not in chain)])


def _per_member(content: Floats, counts: Floats) -> Floats:
    """Sums as means; 0 where there is nothing to take the mean of."""
    return content if np.all(counts == 1) else content / np.where(counts > 0, counts, 1)


def in_order(models: ModelsToZip, name: str, zips: Zipped) -> Positions:
    """Where each unit [outer, models * size] stands on a side of the activations' similarity."""
    outer, units = shape_of(models, name)
    size = units // models.models
    rows = [
        (model * outer + _outer_order(models, name, labels))[:, None] * size + np.arange(size)
        for model, labels in enumerate(zips.models)
    ]
    return np.concatenate(rows, axis=1)


def _outer_order(models: ModelsToZip, name: str, labels: Projections) -> Positions:
    """Which of a model's combinations of outer units comes to each place of the first model's order."""
    spaces = models.plan.spaces
    names = spaces[name].varies_with
    sizes = [spaces[each].size for each in names]
    grid = dict(zip(names, np.ix_(*(np.arange(size) for size in sizes)), strict=True))
    targets = [
        labels[each][tuple(grid[outer] for outer in composite(each, spaces))] if each in labels else grid[each]
        for each in names
    ]
    if not names:
        return np.zeros(1, np.int64)
    flat = np.ravel_multi_index(tuple(np.broadcast_to(target, sizes).reshape(-1) for target in targets), sizes)
    return np.argsort(flat)


def targets_of(models: ModelsToZip, name: str, zips: Zipped) -> Positions:
    """The merged unit that each unit becomes part of, [outer, models * size] in the first model's outer order."""
    outer, units = shape_of(models, name)
    found = [
        labels[name].reshape(outer, units // models.models)[_outer_order(models, name, labels)]
        for labels in zips.models
    ]
    return np.concatenate(found, axis=1)


def taken(similarity: Floats, order: Positions) -> Floats:
    """Rows and columns in an order; itself where they are in it."""
    if np.array_equal(order, np.arange(len(similarity))):
        return similarity
    return similarity[np.ix_(order, order)]


def _between(similarity: Floats, models: int, other: int) -> Floats:
    """The rows of the first model and the columns of another."""
    units = len(similarity) // models
    return similarity[:units, other * units : (other + 1) * units]
