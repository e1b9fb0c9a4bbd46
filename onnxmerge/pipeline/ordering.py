"""Models of one pretraining in one order: before task vectors are taken, every model is matched to their origin.

Fine-tuning leaves a unit where it is, so of fine-tunes of one file nothing moves. A model that was fine-tuned from a
permuted copy of the base has the same units in another order: they are found by weights. One from another training has
other units; those nearest to the base's are found by what they do, where there is data.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from onnxmerge.axes.linear_spaces import rotatable
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.matching.objective import ObjectiveFunction
from onnxmerge.matching.sampled_units import least_alike
from onnxmerge.matching.similarity import PairOfModels, weight_shares
from onnxmerge.model.network import ModelSet
from onnxmerge.pipeline.job import Job, silent
from onnxmerge.pipeline.matching import match, measured
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.types import Array, Arrays
from onnxmerge.units.groups import Plan, make_plan
from onnxmerge.units.layout import TensorLayout, Typing
from onnxmerge.units.permutations import Permutations, identity, is_still, transported

OWN = 0.9
"""Mean correlation of weight vectors from which on units are taken to stand where they stood before fine-tuning."""

APART = 0.75
"""The same, in the best order found, below which a model is taken to come from another training: such models came to
0.1 to 0.6 here, fine-tunes to 0.95 and more."""

UNLIKE = 0.3
"""Mean correlation of matrices where they stand, below which models are taken to have their units in other orders."""

LOOKED_AT = 8
"""Matrices that are compared for that, at most, from all over the network."""

MOST = 1 << 20
"""Weights that are compared of such a matrix, the first ones, at most."""

ENOUGH = 64
"""Weights of a matrix that tell something at the least: of unrelated ones the correlation then deviates by 1/8."""


def in_one_order(job: Job) -> tuple[Job, tuple[str, ...]]:
    """The job with every model in the order of the base, or of the first model where no base is given, and notes.

    It is the job itself where every model stands in that order.
    """
    prepared = job.prepared
    models, plan = prepared.models, make_plan(prepared.typing)
    origin = models.weights[0] if job.base is None else job.base.weights
    label = models.sources[0].label if job.base is None else job.base.network.label
    weights, notes = list(models.weights), list[str]()
    start = 1 if job.base is None else 0
    for index, least in enumerate(least_alike(plan, origin, weights[start:]), start):
        if least is not None and least >= OWN:
            continue
        own = weights[index]
        before = alike(plan, origin, own, identity(plan.spaces))
        if before >= OWN:
            continue
        method, found = "rebasin", _matched(job, origin, own, "rebasin", None)
        after = alike(plan, origin, own, found)
        if after < APART and job.source is not None:
            method, found = "act-align", _matched(job, origin, own, "act-align", job.source)
            after = alike(plan, origin, own, found)
        name = models.sources[index].label
        if not all(map(is_still, found.values())):
            weights[index] = transported(own, prepared.typing, found)
            notes.append(
                f"{name}: its units were brought into the order of {label} by {method}; their weights correlate with "
                f"{after:.2f}, before with {before:.2f}"
            )
        if after < APART:
            notes.append(
                f"{name}: is no fine-tune of {label}, as far as the weights of its units say: what is added up "
                "includes how far two trainings lie apart; for such models leave out --base and --method"
            )
    if all(own is before for own, before in zip(weights, models.weights, strict=True)):
        return job, tuple(notes)
    moved = replace(prepared, models=replace(models, weights=tuple(weights)))
    return replace(job, prepared=moved), tuple(notes)


def in_disorder(job: Job) -> dict[int, float]:
    """The models whose units seem to stand in other orders than the first one's, with how their weights correlate.

    Told by some matrices of movable units, so that a large model is not read for it; those that are to be rotated,
    in whatever order their units are, tell nothing.
    """
    typing, models = job.prepared.typing, job.prepared.models
    rotated = frozenset(rotatable(models.template.graph, typing)) if job.options.rotate else frozenset[str]()
    free = [name for name, layout in typing.initializers.items() if _is_matrix_of_units(layout, typing, rotated)]
    names = [free[place * len(free) // LOOKED_AT] for place in range(LOOKED_AT)] if len(free) > LOOKED_AT else free
    found = {}
    for index, own in enumerate(models.weights[1:], start=1):
        several = [value for name in names if (value := _correlation(models.weights[0][name], own[name])) is not None]
        if several and math.fsum(several) / len(several) < UNLIKE:
            found[index] = math.fsum(several) / len(several)
    return found


def averaged_in_disorder(job: Job) -> tuple[str, ...]:
    """What to say of models that are averaged as they stand although their units seem to be in other orders."""
    sources = job.prepared.models.sources
    return tuple(
        f"{sources[index].label}: its weights correlate with those of {sources[0].label} by {correlation:.2f} only, "
        "so its units seem to stand in another order, and they were averaged as they stand; another --method, best "
        "with --calib data, brings them into one"
        for index, correlation in in_disorder(job).items()
    )


def _is_matrix_of_units(layout: TensorLayout, typing: Typing, rotated: Collection[str]) -> bool:
    """Whether a tensor is a matrix or a kernel of units that may move, and of none that are ``rotated``."""
    spaces = {space for block in layout.blocks for space in block.spaces}
    movable = any(typing.spaces[space].free for space in spaces)
    return len(layout.shape) > 1 and movable and spaces.isdisjoint(rotated)


def _correlation(first: Array, other: Array) -> float | None:
    """Between the first entries of two arrays that are 0 in neither; None of few, equal or infinite ones.

    A pruned entry says nothing of where its units stand: two random prunings of one network have little in common but
    agree on what both have left.
    """
    x, y = (array.reshape(-1)[:MOST].astype(np.float64) for array in (first, other))
    both = (x != 0) & (y != 0)
    x, y = x[both], y[both]
    if x.size < ENOUGH:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        x, y = x - x.mean(), y - y.mean()
        lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / lengths if 0 < lengths < math.inf else None


def alike(plan: Plan, first: Arrays, other: Arrays, perms: Permutations) -> float:
    """Mean correlation of the weight vectors of units under ``perms``, but of dead ones; 1 where no unit can move."""
    compare = ObjectiveFunction(PairOfModels(plan, first, other, {}, weight_shares(plan, 1.0, {})))
    units = sum(int(each.sum()) for each in compare.varying(perms).values())
    return math.fsum(float(each.sum()) for each in compare.by_unit(perms).values()) / units if units else 1.0


def _matched(job: Job, origin: Arrays, own: Arrays, method: str, source: CalibrationSource | None) -> Permutations:
    """The permutations by which a method brings a model to the origin."""
    models = job.prepared.models
    two = ModelSet(models.template, (origin, own), models.sources[:2])
    how = MergeOptions(method=method, repair="none", seed=job.options.seed, provider=job.options.provider)
    alone = Job(replace(job.prepared, models=two), source, how, silent)
    return match(alone, measured(alone, [how])).permutations[0]
