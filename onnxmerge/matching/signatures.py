"""What tells units apart by their weights, in whatever order the units of other groups stand.

The sums of a weight vector's elements, and of their squares and cubes, are the same for every order of its features.
So two models' units can be compared by them before anything is matched. A feature counts by its mark: one of its own
for a unit that is fixed, for any other what its own signature says, so that what fixed inputs and outputs tell apart is
told apart however many layers lie between (as colours are refined in tests of graphs for isomorphism: Weisfeiler and
Leman, 1968). That is too little to match different models by, but it finds the units of a permuted copy, and chooses
among units that activations cannot tell apart: those that the data never wakes (all are constant), or wakes at one
place only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy

from onnxmerge.matching.similarity import has_twins, unit_columns, unit_view
from onnxmerge.types import Arrays, Floats
from onnxmerge.units.groups import Group, Occurrence, Plan
from onnxmerge.units.permutations import bind, block_content, composite_shape

POWERS = 3
"""Of weights that are summed up: first, second and third."""

TIE = 1e-7
"""What equal signatures add to a similarity: less than the last digit that correlations of activations carry."""

DIGITS = 9
"""Digits of sums that are looked at, of the largest sum of sizes: what another order of addition changes is behind."""

DISTINCT = 0.75
"""Signatures find the units of another model where at least so many have a nearest partner of their own. Nearly all
have in permuted copies, also in those that were fine-tuned, and a third to six in ten in models trained apart."""

NOISE = 1e-6
"""A deviation of less than this share of the largest value says nothing."""


def tell_apart(plan: Plan, weights: Sequence[Arrays], activations: Mapping[str, Floats]) -> None:
    """Add up to ``TIE`` to similarities [models * n, models * n] of units with like signatures, in place.

    Only where activations leave a choice.
    """
    names = [name for name, similarity in activations.items() if has_twins(similarity, len(weights))]
    if names:
        every = [signatures(plan, own) for own in weights]
        for name in names:
            both = np.concatenate([own[name] for own in every])
            activations[name][...] += TIE * alike(both, both)


def alike(one: Floats, other: Floats) -> Floats:
    """How like signatures [n, k] and [m, k] are [n, m]: 1 for equal ones, never 0."""
    rows = _standard(np.concatenate([one, other]))
    return np.asarray(1 / (1 + scipy.spatial.distance.cdist(rows[: len(one)], rows[len(one) :])))


def find_each_other(one: Mapping[str, Floats], similarity: Mapping[str, Floats]) -> bool:
    """Whether the units of two models have nearest partners of their own.

    ``one`` are the signatures [n, k] of the first, ``similarity`` [n, m] what ``alike`` makes of them, by space. Units
    of one signature, such as dead ones, count once.
    """
    partners = sum(len(np.unique(each.argmax(axis=1))) for each in similarity.values())
    return partners >= DISTINCT * sum(len(np.unique(one[name], axis=0)) for name in similarity)


def signatures(plan: Plan, weights: Arrays) -> dict[str, Floats]:
    """The signatures [units, sums] of the units of every space: through all groups in order, and back."""
    rng = np.random.default_rng(0)
    marks: dict[str, Floats] = {}
    for name, space in plan.spaces.items():
        own = np.ones(composite_shape(name, plan.spaces))
        marks[name] = own if space.free else rng.uniform(0.5, 1.5, space.size)
    found: dict[str, Floats] = {}
    groups = [*plan.groups.values()]
    for group in (*groups, *reversed(groups)):
        for name in group.members:
            found[name] = _sums(plan, group, name, weights, marks)
            sums = found[name].shape[1]
            direction = np.random.default_rng(1).standard_normal(sums) / math.sqrt(max(sums, 1))
            score = np.asarray(_standard(found[name]) @ direction)
            marks[name] = (1 + np.tanh(score) / 2).reshape(marks[name].shape)
    return found


def _standard(rows: Floats) -> Floats:
    """Columns with zero mean and unit deviation; constant ones are 0."""
    deviations = rows.std(axis=0)
    constant = deviations <= NOISE * np.abs(rows).max(axis=0, initial=0.0)
    return np.asarray(np.where(constant, 0.0, (rows - rows.mean(axis=0)) / np.where(constant, 1.0, deviations)))


def _sums(plan: Plan, group: Group, name: str, weights: Arrays, marks: Mapping[str, Floats]) -> Floats:
    """Sums of powers [units, sums], of every place at which the space stands in the weights."""
    units = math.prod(composite_shape(name, plan.spaces))
    found = [np.zeros((units, 0))]
    for occurrence in group.occurrences:
        places = [leaf for leaf in occurrence.leaves if occurrence.labels[leaf] == name]
        if not places:
            continue
        view = unit_view(_marked(plan, occurrence, weights, marks), occurrence, plan)
        for leaf in places:
            sums, sizes = np.zeros((2, units, POWERS))
            for own in unit_columns(view, occurrence, leaf):
                size, square = np.abs(own), own * own
                squares = square.sum(axis=1)
                sums += np.stack([own.sum(axis=1), squares, np.einsum("uf,uf->u", square, own)], axis=1)
                sizes += np.stack([size.sum(axis=1), squares, np.einsum("uf,uf->u", square, size)], axis=1)
            largest = sizes.max(axis=0, initial=0.0)
            found.append(np.round(sums / np.where(largest > 0, largest, 1.0), DIGITS))
    return np.concatenate(found, axis=1)


def _marked(plan: Plan, occurrence: Occurrence, weights: Arrays, marks: Mapping[str, Floats]) -> Floats:
    """A block of weights, times the marks of the units that every element belongs to."""
    layout, block = occurrence.layout, occurrence.block
    content = block_content(weights[layout.name], layout, block, plan.spaces, {}).astype(np.float64)
    sizes = [plan.spaces[name].size for name in block.spaces]
    slots = [(axis, place) for axis, each in enumerate(block.axes) for place in range(len(each.spaces))]
    grid = dict(zip(slots, np.ix_(*map(np.arange, sizes)), strict=True))
    marked, others = content.reshape(sizes), np.ones([1] * len(sizes))
    for slot, name in zip(slots, block.spaces, strict=True):
        outer = bind(layout.name, block, slot, plan.spaces) if plan.spaces[name].free else ()
        own = marks[name][tuple(grid[each] for each in (*outer, slot))]
        if own.shape[0] > 1:
            marked *= own
        else:  # small ones are multiplied among themselves: a kernel's taps by themselves would be slow
            others = others * own
    marked *= others
    return np.asarray(marked.reshape(content.shape))
