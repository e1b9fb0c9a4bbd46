"""The stages after matching: average, and give back what averaging takes from the statistics of units."""

from __future__ import annotations

from dataclasses import dataclass

from onnxmerge.api.job import Job, Overlay
from onnxmerge.api.matching import Plans, Weights
from onnxmerge.api.options import MergeOptions
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.statistics import Statistics
from onnxmerge.calibration.subset import FirstSamples
from onnxmerge.matching.methods import MatchResult
from onnxmerge.merging.batchnorm import batchnorms, reestimate
from onnxmerge.merging.combine import combine
from onnxmerge.merging.least_squares import refine
from onnxmerge.merging.repair import repair, targets
from onnxmerge.merging.repair_choice import repair_step
from onnxmerge.merging.scales import balanced

REPAIR_SAMPLES = 2048
"""Calibration samples that repair measures the merged network on: a mean and a deviation need no more."""


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """Merged weights, what was done to their statistics, and what the user should know about it."""

    weights: Weights
    repaired: str
    notes: tuple[str, ...] = ()


def merged(job: Job, matched: MatchResult, plans: Plans, statistics: Statistics | None) -> Merged:
    """Average the matched models and restore their statistics by what the options say."""
    template, typing = job.prepared.models.template, job.prepared.typing
    source, options = job.source, job.options
    models = job.prepared.models
    if plans.scales is not None and statistics is not None and _sets_means(options):
        models = balanced(models, typing, plans.scales, statistics)
    weights: Weights = combine(models, typing, matched.matchings)
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
    if plans.repair is not None and step is not None and statistics is not None:
        aims = targets(plans.repair, typing, statistics, matched.matchings)
        data = FirstSamples(source, REPAIR_SAMPLES)
        changed = repair(
            template.model, typing, weights, plans.repair, aims, data, mode=step.mode, provider=options.provider
        )
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
            output_scale=options.output_scale,
            provider=options.provider,
            seed=options.seed,
            progress=report,
        )
    return Merged(Overlay(weights, found.weights), f"least squares ({options.output_scale})", tuple(found.notes))


def _sets_means(options: MergeOptions) -> bool:
    """Whether what follows sets means and deviations anew, so that parents may be averaged in another scale."""
    return options.refine == "none" and options.repair in ("auto", "repair")
