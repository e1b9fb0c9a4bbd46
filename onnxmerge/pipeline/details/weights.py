"""What was done to the groups of units and to the initializers.

Weights are compared with the plain mean of the matched parents, which says what was done to each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from onnxmerge.matching.cache import CachedWeights
from onnxmerge.matching.matched_units import (
    Pairing,
    UnitSimilarity,
    all_paired,
    outer_similarities,
    pairing,
    unit_similarities,
)
from onnxmerge.matching.method import MatchResult
from onnxmerge.matching.overrides import overrides
from onnxmerge.memory import room_for
from onnxmerge.merging.alike import equal
from onnxmerge.merging.answer.answer import AS_IT_WAS, Answered
from onnxmerge.merging.combine import combine
from onnxmerge.model.arrays import is_floating
from onnxmerge.pipeline.details.errors import known_mean, relative_error
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import Measurements
from onnxmerge.types import Array, Arrays, Floats
from onnxmerge.units.groups import Plan, make_plan
from onnxmerge.units.permutations import composite, composite_shape
from onnxmerge.units.zips import identity_zip

KEPT = 1 << 28
"""Bytes of each network's weights that are kept at most between the looks at its groups."""

Done: TypeAlias = Literal["untouched", "averaged", "repaired", "solved", "answer", "task vectors"]
"""What was done to an initializer: it is equal in all parents, or their mean, or that with its scale or statistics set
anew, or solved for what the parents compute, or for what their ensemble answers, or a base with task vectors."""


@dataclass(frozen=True, slots=True, eq=False)
class GroupDetails:
    """The matched units of one space: ``similarity[m - 1]`` of the first model's with those of model m.

    ``to_parents`` [units of the first] is how alike the weights of the merged unit are to its parents', the mean over
    them; ``outer`` [m - 1] [n, n] compares any two outer units (heads). Either is None where it is not known.
    """

    space: str
    similarity: tuple[UnitSimilarity, ...]
    to_parents: Floats | None
    outer: tuple[Floats, ...] | None


@dataclass(frozen=True, slots=True)
class WeightDetails:
    """One initializer: what was done to it, and how far it is from the parents' mean (relative, Euclidean)."""

    name: str
    shape: tuple[int, ...]
    done: Done
    change: float


def group_details(
    job: Job, matched: MatchResult, measurements: Measurements, weights: Arrays
) -> tuple[GroupDetails, ...]:
    """The groups that were matched; none where task vectors were added without any matching."""
    if job.options.task_vectors is not None:
        return ()
    typing, models = job.prepared.typing, job.prepared.models
    plan = make_plan(typing, overrides(job.options.groups, typing).pinned)
    room = room_for(KEPT, 4 * len(models.weights))
    cached = [CachedWeights(own, room) for own in models.weights]
    grams = {} if measurements.statistics is None else measurements.statistics.gram
    pairs = _pairings(matched, plan)
    found: list[dict[str, UnitSimilarity]] = []
    heads: list[dict[str, Floats]] = []
    for other, paired in enumerate(pairs, start=1):
        seen = {name: gram.correlation(0, other) for name, gram in grams.items()}
        found.append(unit_similarities(plan, cached[0], cached[other], paired, seen))
        every = {root: outer_similarities(plan, group, seen) for root, group in plan.groups.items()}
        heads.append({root: own for root, own in every.items() if own is not None})
    near = _to_parents(job, matched, plan, weights, cached)
    return tuple(
        GroupDetails(
            name,
            tuple(own[name] for own in found),
            near.get(name),
            tuple(own[name] for own in heads) if all(name in own for own in heads) else None,
        )
        for name in (found[0] if found else ())
    )


def _pairings(matched: MatchResult, plan: Plan) -> list[Pairing]:
    """For each model but the first, which of its units were matched with the first's."""
    if matched.zipped is None:
        return [all_paired(permutations, plan) for permutations in matched.permutations]
    first, *others = matched.zipped.models
    return [pairing(first, other, plan) for other in others]


def _to_parents(
    job: Job, matched: MatchResult, plan: Plan, weights: Arrays, parents: Sequence[Arrays]
) -> dict[str, Floats]:
    """How alike each unit of the first's becomes in the merged network to all its parents, in weights.

    Nothing is known where the merged network has other widths.
    """
    if job.resized is not None:
        return {}
    merged = identity_zip(plan.spaces)
    labels = None if matched.zipped is None else matched.zipped.models
    if labels is None:
        every = [all_paired(each, plan) for each in ({}, *matched.permutations)]
    else:
        every = [pairing(merged, own, plan) for own in labels]
    ours = CachedWeights(weights, room_for(KEPT, 8))
    found = [unit_similarities(plan, ours, own, pairs, {}) for own, pairs in zip(parents, every, strict=True)]
    near: dict[str, Floats] = {}
    for name in found[0]:
        known = [own.weights for each in found if (own := each[name]).weights is not None]
        if known:
            means = known_mean(np.array(known))
            near[name] = means if labels is None else means[_merged_places(labels[0], name, plan)]
    return near


def _merged_places(labels: Mapping[str, Array], name: str, plan: Plan) -> Array:
    """The flat place in the merged network of each unit of the first model, outer units in its own order."""
    names, shape = composite(name, plan.spaces), composite_shape(name, plan.spaces)
    own = dict(zip(names, np.indices(shape), strict=True))
    places = [
        labels[each][tuple(own[outer] for outer in composite(each, plan.spaces))] if each in labels else own[each]
        for each in names
    ]
    return np.asarray(np.ravel_multi_index(places, shape)).reshape(-1)


def weight_details(
    job: Job,
    matched: MatchResult,
    weights: Arrays,
    answers: Sequence[Answered],
    names: Collection[str] | None = None,
) -> Iterator[WeightDetails]:
    """What was done to each float initializer of the merged trunk, or to those of some ``names``."""
    models, typing, vectors = job.prepared.models, job.prepared.typing, job.options.task_vectors is not None
    average = models.weights[0] if vectors else combine(models, typing, matched.matchings, weights=job.shares)
    answered = {found.meaning.output for found in answers if found.form != AS_IT_WAS}
    solved = {
        name
        for layer in job.outputs.layers
        if str(layer.output.name) in answered
        for name in (layer.target.layer.weight, layer.target.layer.bias)
    }
    for name, first in models.weights[0].items():
        if not is_floating(first.dtype) or name not in weights or (names is not None and name not in names):
            continue
        final, mean = weights[name], average[name]
        alike = equal(mean, first) and all(_alike(first, own[name]) for own in models.weights[1:])
        done: Done
        if equal(final, mean):
            done = "untouched" if vectors or alike else "averaged"
        elif name in solved:
            done = "answer"
        elif vectors:
            done = "task vectors"
        else:
            done = "solved" if job.options.refinement is not None and name not in typing.statistics else "repaired"
        yield WeightDetails(name, tuple(final.shape), done, _relative(final, mean))


def _alike(one: Array, other: Array) -> bool:
    """Whether two parents' tensors hold the same values, in whatever order of units."""
    return one.shape == other.shape and bool(np.array_equal(np.sort(one, axis=None), np.sort(other, axis=None)))


def _relative(found: Array, wanted: Array) -> float:
    if found.shape != wanted.shape:
        return float("nan")
    new, old = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(new) & np.isfinite(old)
    return relative_error(new[finite], old[finite])
