"""The stages before merging: what is measured in the parents, and which of their units are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from onnxmerge.api.job import Job
from onnxmerge.api.methods import METHODS, compares_activations, compares_all_pairs
from onnxmerge.calibration.statistics import GramRequest, MomentRequest, Statistics, gather
from onnxmerge.errors import UsageError
from onnxmerge.matching.methods import MatchOptions, MatchProblem, MatchResult
from onnxmerge.matching.overrides import overrides
from onnxmerge.matching.zipping import ZipRule
from onnxmerge.merging.repair import RepairPlan, plan_repair
from onnxmerge.merging.repair_choice import repair_step
from onnxmerge.merging.scales import ScalePlan, comparable, plan_scales
from onnxmerge.merging.task_vectors import TaskVectorMethod

Weights: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Plans:
    """What will be measured in the parents beside the similarity of units; None: nothing.

    ``repair``: the layers whose statistics are set anew after merging. ``scales``: the layers whose units have no
    scale of their own.
    """

    repair: RepairPlan | None
    scales: ScalePlan | None

    @property
    def requests(self) -> tuple[MomentRequest, ...]:
        both = [plan.requests for plan in (self.repair, self.scales) if plan is not None]
        return tuple(dict.fromkeys(request for requests in both for request in requests))


def plans_of(job: Job) -> Plans:
    """What statistics repair and the scale of units need. Raises UsageError where they lack calibration data."""
    graph, typing, choice = job.prepared.models.template.graph, job.prepared.typing, job.options.repair
    if isinstance(METHODS[job.options.method], TaskVectorMethod):
        return Plans(None, None)
    step = repair_step(graph, typing, choice)
    if job.source is None:
        if choice not in ("auto", "none"):
            raise UsageError(f"--repair {choice} measures activations: give calibration data (--calib)")
        return Plans(None, None)
    if step is None:
        return Plans(None, None)
    hidden = plan_repair(graph, typing, "free").layers if step.which == "all" else ()
    scales = plan_scales(graph, typing, hidden)
    repaired = plan_repair(graph, typing, step.which) if job.options.refine != "ls" else None
    return Plans(repaired, scales if scales.layers else None)


def statistics_of(job: Job, plans: Plans) -> Statistics | None:
    """What method, repair and scales need to know of the parents' activations, in one pass over the data."""
    prepared, wanted = job.prepared, compares_activations(job.options)
    grams = [GramRequest(space, taps) for space, taps in prepared.typing.taps.items()] if wanted else []
    requests: list[GramRequest | MomentRequest] = [*grams, *plans.requests]
    if job.source is None or not requests:
        return None
    models = prepared.models
    every = range(len(models.weights))
    together = wanted and compares_all_pairs(METHODS[job.options.method])
    pairs = [(one, other) for other in every for one in every[: other + 1]] if together else None
    with job.progress("calibrating") as report:
        return gather(
            models.template,
            models.weights,
            prepared.typing,
            requests,
            job.source,
            provider=job.options.provider,
            progress=report,
            pairs=pairs,
        )


def match(job: Job, plans: Plans, statistics: Statistics | None) -> MatchResult:
    """Match the units of all models by the chosen method; task vectors are added up without any matching."""
    options, models, typing = job.options, job.prepared.models, job.prepared.typing
    method, rule = METHODS[options.method], ZipRule(options.zip_a, options.zip_b)
    if isinstance(method, TaskVectorMethod):
        return MatchResult(method.name)
    weights: Sequence[Weights] = models.weights
    if plans.scales is not None and statistics is not None:
        weights, typing = comparable(models, typing, plans.scales, statistics)
    grams = statistics.gram if statistics is not None else {}
    if compares_all_pairs(method):
        together = {space: gram.correlations(len(weights)) for space, gram in grams.items() if gram.cross}
        problem = MatchProblem(typing, weights, together=together, shares=job.shares)
    else:
        activations = [
            {space: gram.correlation(0, other) for space, gram in grams.items()} for other in range(1, len(weights))
        ]
        problem = MatchProblem(typing, weights, activations)
    settings = MatchOptions(
        alpha=options.alpha,
        objective=options.objective,
        seed=options.seed,
        zip=rule,
        overrides=overrides(options.groups, typing),
    )
    return method(problem, settings)
