"""The stages of a partial merge: some units of each group are shared, the others stay apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.api.job import Job, Overlay
from onnxmerge.api.matching import Evidence
from onnxmerge.api.methods import alpha_of, compares_activations
from onnxmerge.api.restoring import Merged, in_one_scale
from onnxmerge.axes.layout import Positions
from onnxmerge.calibration.enough import LEAST
from onnxmerge.calibration.statistics import Statistics
from onnxmerge.calibration.subset import Spread
from onnxmerge.heads.splicing import Reading
from onnxmerge.matching.methods import MatchResult
from onnxmerge.merging.batchnorm import batchnorms, reestimate
from onnxmerge.merging.combine import combine
from onnxmerge.merging.linear_layers import linear_layers
from onnxmerge.merging.repair import RepairPlan, Target, plan_repair, repair, targets
from onnxmerge.merging.repair_choice import RepairStep
from onnxmerge.merging.transport import composite_sources
from onnxmerge.model.network import Network
from onnxmerge.widening.budget import budget_of, weight_likeness
from onnxmerge.widening.layout import Budgets, plain_spaces, widened_axes
from onnxmerge.widening.network import wide_network
from onnxmerge.widening.proof import provable
from onnxmerge.widening.weights import widened

Weights: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """A merged network whose groups of ``budgets`` are wider than their parents'."""

    network: Network
    merged: Merged
    budgets: Budgets


def merged_partly(job: Job, matched: MatchResult, evidence: Evidence, step: RepairStep | None) -> Partial:
    """Merge the most similar units of each group that can be widened, and restore the statistics of all by ``step``.

    Where no unit is shared the parents stand side by side, so hidden statistics are right as they are.
    """
    models, typing = job.prepared.models, job.prepared.typing
    source, provider = job.source, job.options.provider
    budgets, notes = _budgets(job, matched, evidence.statistics)
    network = wide_network(models.template, typing, budgets)
    apart = _is_apart(job, budgets)
    scaled = models if apart else in_one_scale(job, evidence, step)
    mean = combine(scaled, typing, matched.permutations, weights=job.shares)
    weights: Weights = widened(mean, scaled.weights, typing, matched.permutations, budgets, job.shares)
    if source is None or step is None:
        return Partial(network, Merged(weights, notes=tuple(notes)), budgets)
    done = []
    if not apart and batchnorms(network.graph):
        found = reestimate(network.model, typing, weights, Spread(source, LEAST), provider=provider)
        weights = Overlay(weights, found)
        done.append("BatchNorm re-estimated")
    plan = plan_repair(models.template.graph, typing, step.which)
    if apart:
        plan = _without_hidden(plan, job, budgets)
    if plan.layers and evidence.statistics is not None:
        aims = _targets(job, matched, plan, evidence.statistics, budgets)
        wide_plan = replace(plan, layers=_wide_layers(network, plan))
        data = Spread(source, LEAST)
        changed = repair(network.model, typing, weights, wide_plan, aims, data, mode=step.mode, provider=provider)
        weights = Overlay(weights, changed)
        done.append(step.label)
    return Partial(network, Merged(weights, tuple(done), tuple(notes)), budgets)


def _is_apart(job: Job, budgets: Budgets) -> bool:
    """Whether no unit of any group is shared."""
    groups = [name for name, space in job.prepared.typing.spaces.items() if space.free and space.size > 1]
    return all(name in budgets and budgets[name].shared.size == 0 for name in groups)


def _without_hidden(plan: RepairPlan, job: Job, budgets: Budgets) -> RepairPlan:
    """The plan for the layers that give no units of a widened group."""
    layouts = job.prepared.typing.activations
    kept = [
        (layer, request)
        for layer, request in zip(plan.layers, plan.requests, strict=True)
        if not widened_axes(layouts[layer.output], budgets)
    ]
    return replace(plan, layers=tuple(layer for layer, _ in kept), requests=tuple(request for _, request in kept))


def _budgets(job: Job, matched: MatchResult, statistics: Statistics | None) -> tuple[dict[str, Any], list[str]]:
    """The units of each group that are shared, and a note for the groups that stay shared as a whole."""
    models, typing, options = job.prepared.models, job.prepared.typing, job.options
    names = provable(plain_spaces(typing), models, typing, job.prepared.trace.sample)
    likeness = weight_likeness(names, typing, models.weights, matched.permutations)
    alpha, compared = alpha_of(options) or 0.0, compares_activations(options)
    for name in names:
        gram = statistics.gram.get(name) if statistics is not None and compared else None
        if gram is None:
            continue
        seen = []
        for index, perms in enumerate(matched.permutations, start=1):
            (partner,) = composite_sources(name, typing.spaces, perms)
            seen.append(gram.correlation(0, index)[np.arange(partner.size), partner])
        likeness[name] = alpha * likeness[name] + (1 - alpha) * np.mean(seen, axis=0)
    budgets = {name: budget_of(likeness[name], options.share, len(models.weights)) for name in names}
    whole = [name for name, space in typing.spaces.items() if space.free and space.size > 1 and name not in budgets]
    notes = [f"cannot be widened, so wholly shared: {', '.join(whole)}"] if whole else []
    return budgets, notes


def _targets(
    job: Job, matched: MatchResult, plan: RepairPlan, statistics: Statistics, budgets: Budgets
) -> dict[str, Target]:
    """The targets of widened layers: for shared units the mean over parents, for units kept apart their parent's."""
    typing, count = job.prepared.typing, len(job.prepared.models.weights)
    mean = targets(plan, typing, statistics, matched.matchings, shares=job.shares)
    single = np.eye(count)
    own = [targets(plan, typing, statistics, matched.matchings, shares=list(single[m])) for m in range(count)]
    found = dict(mean)
    for layer in plan.layers:
        axes = widened_axes(typing.activations[layer.output], budgets)
        space = axes.get(layer.channel_axis % len(typing.activations[layer.output].shape))
        if space is None or layer.output not in mean:
            continue
        budget = budgets[space]
        parts = [(mean, budget.shared), *((each, budget.own) for each in own)]
        found[layer.output] = Target(
            np.concatenate([aims[layer.output].mean[units] for aims, units in parts]),
            np.concatenate([aims[layer.output].std[units] for aims, units in parts]),
        )
    return found


def _wide_layers(network: Network, plan: RepairPlan) -> tuple[Any, ...]:
    """The plan's layers as they are in the widened graph."""
    layers = {layer.output: layer for layer in linear_layers(network.graph)[0]}
    return tuple(layers[layer.output] for layer in plan.layers)


def widened_readings(readings: Sequence[Reading], job: Job, budgets: Budgets) -> tuple[Reading, ...]:
    """How each parent's tail reads a border that was widened, from how it would read it unwidened."""
    typing = job.prepared.typing

    def reading(parent: int, given: Reading) -> Reading:
        found: dict[str, dict[int, Positions]] = {}
        for name, orders in given.items():
            axes = widened_axes(typing.activations[name], budgets)
            wide = {
                axis: budgets[space].places(parent)[orders.get(axis, np.arange(typing.spaces[space].size))]
                for axis, space in axes.items()
            }
            found[name] = {**orders, **wide}
        return found

    return tuple(reading(parent, given) for parent, given in enumerate(readings))
