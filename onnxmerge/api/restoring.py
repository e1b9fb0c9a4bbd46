"""The stages after matching: average, and give back what averaging takes from the statistics of units."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from onnxmerge.api.job import Job, Overlay
from onnxmerge.api.matching import Evidence, Weights
from onnxmerge.api.methods import METHODS, settings_of
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.subset import FirstSamples
from onnxmerge.errors import UsageError
from onnxmerge.matching.methods import MatchResult
from onnxmerge.merging.batchnorm import batchnorms, reestimate
from onnxmerge.merging.combine import combine
from onnxmerge.merging.least_squares import OutputScale, Refined, refine
from onnxmerge.merging.regmean import regmean
from onnxmerge.merging.repair import plan_repair, repair, targets
from onnxmerge.merging.repair_choice import RepairStep
from onnxmerge.merging.scales import balanced
from onnxmerge.merging.task_vectors import TaskVectorMethod, add_task_vectors
from onnxmerge.model.network import ModelSet

REPAIR_SAMPLES = 2048
"""Calibration samples that repair measures the merged network on: a mean and a deviation need no more."""


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """Merged weights, what was done to their statistics, and what the user should know about it."""

    weights: Weights
    repaired: str
    notes: tuple[str, ...] = ()


def merged(job: Job, matched: MatchResult, evidence: Evidence, step: RepairStep | None) -> Merged:
    """Average the matched models and restore their statistics, by ``step`` or by the refinement of the options."""
    template, typing = job.prepared.models.template, job.prepared.typing
    source, options = job.source, job.options
    method, statistics = METHODS[options.method], evidence.statistics
    if isinstance(method, TaskVectorMethod):
        return _task_vectors(job, method, step)
    models = in_one_scale(job, evidence, step)
    weights: Weights = combine(models, typing, matched.matchings, weights=job.shares)
    if source is None:
        told = ("statistics were averaged, not repaired: there is no calibration data",)
        return Merged(weights, "none", told if step is not None else ())
    refined = None if options.refine == "none" else _refined(job, matched, weights, source)
    weights = weights if refined is None else Overlay(weights, refined.weights)
    notes = () if refined is None else tuple(refined.notes)
    if options.refine == "ls":
        return Merged(weights, f"least squares ({_output_scale(job)})", notes)
    weights, done = _reestimated(job, weights, step)
    if refined is not None:
        done.insert(0, "RegMean")
    plan = None if step is None else plan_repair(template.graph, typing, step.which)
    if plan is not None and plan.layers and step is not None and statistics is not None:
        aims = targets(plan, typing, statistics, matched.matchings, shares=job.shares)
        data = FirstSamples(source, REPAIR_SAMPLES)
        changed = repair(template.model, typing, weights, plan, aims, data, mode=step.mode, provider=options.provider)
        weights = Overlay(weights, changed)
        done.append(step.label)
    return Merged(weights, ", ".join(done) or "none", notes)


def _task_vectors(job: Job, method: TaskVectorMethod, step: RepairStep | None) -> Merged:
    """The base with the merged task vector; of statistics only those of kept BatchNorm are measured anew."""
    prepared, settings = job.prepared, settings_of(job.options)
    if job.base is None or settings is None:
        raise UsageError(f"method {method.name} adds to a base: give it (--base)")
    notes = [f"no units were matched: {method.name} takes the models to be fine-tuned from the base"]
    added = add_task_vectors(prepared.models, job.base.weights, prepared.typing, method.rule, settings, job.shares)
    weights, done = _reestimated(job, added, step)
    if prepared.typing.statistics and not done:
        notes.append("running statistics were averaged, not re-estimated")
    return Merged(weights, ", ".join(done) or "none", tuple(notes))


def _reestimated(job: Job, weights: Weights, step: RepairStep | None) -> tuple[Weights, list[str]]:
    """The weights with the statistics of kept BatchNorm measured anew where there is data, and what was done."""
    template, options = job.prepared.models.template, job.options
    if job.source is None or step is None or not batchnorms(template.graph):
        return weights, []
    found = reestimate(template.model, job.prepared.typing, weights, job.source, provider=options.provider)
    return Overlay(weights, found), ["BatchNorm re-estimated"]


def _refined(job: Job, matched: MatchResult, weights: Weights, source: CalibrationSource) -> Refined:
    """The linear layers solved anew, by least squares or RegMean."""
    prepared, options = job.prepared, job.options
    solve = regmean if options.refine == "regmean" else partial(refine, output_scale=_output_scale(job))
    with job.progress("RegMean" if options.refine == "regmean" else "least squares") as report:
        return solve(
            prepared.models,
            prepared.typing,
            prepared.trace.dtypes,
            weights,
            matched.permutations,
            source,
            shares=job.shares,
            provider=options.provider,
            seed=options.seed,
            progress=report,
        )


def _output_scale(job: Job) -> OutputScale:
    """What is handed on to heads keeps its scale: they were not made for another one."""
    return "keep" if job.prepared.models.border else job.options.output_scale


def in_one_scale(job: Job, evidence: Evidence, step: RepairStep | None) -> ModelSet:
    """The models as they are averaged: where ``step`` sets the scale of hidden units anew, by what these compute."""
    models, typing = job.prepared.models, job.prepared.typing
    if evidence.scales is None or evidence.statistics is None or not _sets_scales(job, step):
        return models
    return balanced(models, typing, evidence.scales, evidence.statistics)


def _sets_scales(job: Job, step: RepairStep | None) -> bool:
    if step is None or job.options.refine != "none":
        return False
    kept = bool(batchnorms(job.prepared.models.template.graph))
    return kept or (step.which == "all" and step.mode == "repair")
