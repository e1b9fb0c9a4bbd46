"""Which units of two models were matched, one by one, and how alike they are: for those who look at a merge.

A search only needs means. Here every pair of matched units gets its own numbers, in weight space and in activation
space, under the identity and under what was found. A zip merges units by labels; of these the pairs are taken, each
unit once, so that both kinds of matching are looked at in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from onnxmerge.matching.objective import ObjectiveFunction, matched_activations
from onnxmerge.matching.similarity import ActivationSimilarity, PairOfModels, known_activations
from onnxmerge.types import Arrays, Floats, Positions
from onnxmerge.units.groups import Group, Plan
from onnxmerge.units.permutations import Permutations, composite, composite_shape, composite_sources, identity
from onnxmerge.units.zips import Projections

MOST_HEADS = 64
"""Outer units (heads) of which every pair is compared; of more a picture shows nothing."""

MOST_INNER = 128
"""Units inside each of them, which are assigned for every pair."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairing:
    """The units of two models, one to one: ``permutations`` bring the other to the first.

    ``paired[space]`` bool [units of the first, flattened] says which were really matched: the others only fill up.
    """

    permutations: Permutations
    paired: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class UnitSimilarity:
    """How alike the matched units of one space are [units], nan where a unit has no partner; None where unknown.

    ``before`` are the same of the units that stand at one place in both models.
    """

    weights: Floats | None
    activations: Floats | None
    weights_before: Floats | None
    activations_before: Floats | None


def all_paired(permutations: Permutations, plan: Plan) -> Pairing:
    """The pairing of an alignment, in which every unit has its partner."""
    sizes = {name: math.prod(composite_shape(name, plan.spaces)) for name in _matched(plan)}
    return Pairing(permutations, {name: np.ones(size, np.bool_) for name, size in sizes.items()})


def pairing(first: Projections, other: Projections, plan: Plan) -> Pairing:
    """Pairs of units that a zip merges, of two of its models: the k-th members of each merged unit, in order."""
    spaces = plan.spaces
    found: Permutations = {}
    paired: dict[str, NDArray[np.bool_]] = {}
    for name in sorted(_matched(plan), key=lambda name: len(spaces[name].varies_with)):
        if name not in first:
            continue
        shape = composite_shape(name, spaces)
        theirs = np.broadcast_to(other[name][composite_sources(name, spaces, found)], shape)
        rows = [_partners(*each) for each in zip(*(_rows(side) for side in (first[name], theirs)), strict=True)]
        found[name] = np.stack([partner for partner, _ in rows]).reshape(shape)
        paired[name] = np.concatenate([known for _, known in rows])
    return Pairing(found, paired)


def unit_similarities(
    plan: Plan, first: Arrays, other: Arrays, pairs: Pairing, seen: ActivationSimilarity
) -> dict[str, UnitSimilarity]:
    """How alike matched units are, by space; ``seen`` are the correlations of activations, where there are any."""
    known = known_activations(plan, seen)
    pair = PairOfModels(plan, first, other, known, dict.fromkeys(_matched(plan), 1.0))
    unmoved, measure = identity(plan.spaces), ObjectiveFunction(pair)
    with np.errstate(invalid="ignore", over="ignore"):
        before, after = measure.by_unit(unmoved), measure.by_unit(pairs.permutations)
    found = {}
    for name, paired in pairs.paired.items():
        seen_after = matched_activations(pair, name, pairs.permutations) if name in known else None
        found[name] = UnitSimilarity(
            _of_pairs(after.get(name), paired),
            _of_pairs(seen_after, paired),
            before.get(name),
            matched_activations(pair, name, unmoved) if name in known else None,
        )
    return found


def outer_similarities(plan: Plan, group: Group, seen: ActivationSimilarity) -> Floats | None:
    """How alike any two outer units of a group are (heads) [first's, other's]: each at the best order of its units.

    The mean over the spaces inside, by activations alone; None where none was seen, or there are too many.
    """
    size, known = plan.spaces[group.root].size, known_activations(plan, seen)
    found: list[Floats] = []
    for child in group.children[group.root] if 1 < size <= MOST_HEADS else ():
        inner = plan.spaces[child].size
        if child not in known or composite(child, plan.spaces) != (group.root, child) or inner > MOST_INNER:
            continue
        blocks = known[child].reshape(size, inner, size, inner).transpose(0, 2, 1, 3)
        found.append(np.array([[_best_mean(block) for block in row] for row in blocks]))
    return np.mean(found, axis=0) if found else None


def _best_mean(similarity: Floats) -> float:
    rows, columns = scipy.optimize.linear_sum_assignment(similarity, maximize=True)
    return float(similarity[rows, columns].mean())


def _matched(plan: Plan) -> list[str]:
    return [name for group in plan.groups.values() for name in group.members]


def _rows(labels: Positions) -> Positions:
    return labels.reshape(-1, labels.shape[-1])


def _of_pairs(values: Floats | None, paired: NDArray[np.bool_]) -> Floats | None:
    return None if values is None else np.where(paired, values, np.nan)


def _partners(own: Positions, theirs: Positions) -> tuple[Positions, NDArray[np.bool_]]:
    """For each unit the other's that becomes part of the same merged unit, and whether there is one [units].

    Units without a partner take what is left over, in order.
    """
    common = int(max(own.max(initial=0), theirs.max(initial=0))) + 1
    _, mine, yours = np.intersect1d(_numbered(own, common), _numbered(theirs, common), return_indices=True)
    partners = np.full(own.size, -1, np.int64)
    partners[mine] = yours
    known = partners >= 0
    partners[~known] = np.setdiff1d(np.arange(theirs.size), yours)
    return partners, known


def _numbered(labels: Positions, common: int) -> Positions:
    """Labels made unique: the k-th unit of a label gets label + k * common."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    places = np.empty_like(labels)
    places[order] = np.arange(labels.size) - starts
    return np.asarray(labels + places * common)
