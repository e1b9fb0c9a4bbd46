"""The stages after matching: average, and give back what averaging takes from the statistics of units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from onnxmerge.api.job import Job, Overlay
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.statistics import Statistics
from onnxmerge.calibration.subset import FirstSamples
from onnxmerge.matching.methods import MatchResult
from onnxmerge.merging.batchnorm import batchnorms, reestimate
from onnxmerge.merging.combine import combine
from onnxmerge.merging.folding import balanced
from onnxmerge.merging.least_squares import refine
from onnxmerge.merging.repair import RepairPlan, plan_repair, repair, targets
from onnxmerge.merging.repair_choice import RepairStep, repair_step

REPAIR_SAMPLES = 2048
"""Calibration samples that repair measures the merged network on: a mean and a deviation need no more."""

Weights: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """Merged weights, what was done to their statistics, and what the user should know about it."""

    weights: Weights
    repaired: str
    notes: tuple[str, ...] = ()


def merged(job: Job, matched: MatchResult, plan: RepairPlan | None, statistics: Statistics | None) -> Merged:
    """Average the matched models and restore their statistics by what the options say."""
    template, typing = job.prepared.models.template, job.prepared.typing
    weights: Weights = combine(job.prepared.models, typing, matched.matchings)
    source, options = job.source, job.options
    step = repair_step(template.graph, typing, options.repair)
    if source is None:
        averaged = ("statistics were averaged, not repaired: there is no calibration data",)
        return Merged(weights, "none", averaged if step is not None else ())
    if options.refine == "ls":
        return _least_squares(job, matched, weights, source)
    done = []
    if options.repair != "none" and batchnorms(template.graph):
        weights = Overlay(weights, reestimate(template.model, typing, weights, source, provider=options.provider))
        done.append("BatchNorm re-estimated")
    if plan is not None and plan.layers and step is not None and statistics is not None:
        aims = targets(plan, typing, statistics, matched.matchings)
        weights = balanced_where_repaired(job, matched, step, weights)
        data = FirstSamples(source, REPAIR_SAMPLES)
        changed = repair(template.model, typing, weights, plan, aims, data, mode=step.mode, provider=options.provider)
        weights = Overlay(weights, changed)
        done.append(step.label)
    return Merged(weights, ", ".join(done) or "none")


def _least_squares(job: Job, matched: MatchResult, weights: Weights, source: CalibrationSource) -> Merged:
    prepared, options = job.prepared, job.options
    with job.progress("least squares") as report:
        found = refine(
            prepared.models,
            prepared.typing,
            prepared.trace.dtypes,
            weights,
            matched.permutations,
            source,
            output_scale="keep" if prepared.models.border else options.output_scale,
            provider=options.provider,
            seed=options.seed,
            progress=report,
        )
    return Merged(Overlay(weights, found.weights), f"least squares ({options.output_scale})", tuple(found.notes))


def balanced_where_repaired(job: Job, matched: MatchResult, step: RepairStep, weights: Weights) -> Weights:
    """The parents' units at equal length before they are averaged, where repair sets their scale anew."""
    models, typing = job.prepared.models, job.prepared.typing
    if step.which != "all" or not matched.permutations:
        return weights
    hidden = plan_repair(models.template.graph, typing, "free").layers
    return Overlay(weights, balanced(models, typing, matched.permutations, hidden))
