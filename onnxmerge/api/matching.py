"""The stages before merging: what is measured in the parents, and which of their units are alike."""

from __future__ import annotations

from onnxmerge.api.job import Job
from onnxmerge.api.methods import METHODS, compares_activations, compares_all_pairs
from onnxmerge.calibration.statistics import GramRequest, MomentRequest, Statistics, gather
from onnxmerge.errors import UsageError
from onnxmerge.matching.methods import MatchOptions, MatchProblem, MatchResult
from onnxmerge.matching.zipping import ZipRule
from onnxmerge.merging.folding import unfolded
from onnxmerge.merging.repair import RepairPlan, plan_repair
from onnxmerge.merging.repair_choice import repair_step
from onnxmerge.merging.task_vectors import TaskVectorMethod
from onnxmerge.model.network import ModelSet


def repair_plan(job: Job) -> RepairPlan | None:
    """The layers to repair, whose statistics must be measured in the parents; None where nothing is repaired."""
    choice, graph = job.options.repair, job.prepared.models.template.graph
    if job.options.refine == "ls" or isinstance(METHODS[job.options.method], TaskVectorMethod):
        return None
    step = repair_step(graph, job.prepared.typing, choice)
    if step is None:
        return None
    if job.source is None:
        if choice != "auto":
            raise UsageError(f"--repair {choice} measures activations: give calibration data (--calib)")
        return None
    return plan_repair(graph, job.prepared.typing, step.which)


def statistics_of(job: Job, plan: RepairPlan | None) -> Statistics | None:
    """What the method and the repair need to know of the parents' activations, in one pass over the data."""
    prepared, wanted = job.prepared, compares_activations(job.options)
    grams = [GramRequest(space, taps) for space, taps in prepared.typing.taps.items()] if wanted else []
    requests: list[GramRequest | MomentRequest] = [*grams, *(plan.requests if plan is not None else ())]
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


def match(job: Job, statistics: Statistics | None) -> MatchResult:
    """Match the units of all models by the chosen method; task vectors are added up without any matching."""
    options, method = job.options, METHODS[job.options.method]
    if isinstance(method, TaskVectorMethod):
        return MatchResult(method.name)
    weights, rule = _comparable(job).weights, ZipRule(options.zip_a, options.zip_b)
    grams = statistics.gram if statistics is not None else {}
    if compares_all_pairs(method):
        together = {space: gram.correlations(len(weights)) for space, gram in grams.items() if gram.cross}
        problem = MatchProblem(job.prepared.typing, weights, together=together, shares=job.shares)
    else:
        activations = [
            {space: gram.correlation(0, other) for space, gram in grams.items()} for other in range(1, len(weights))
        ]
        problem = MatchProblem(job.prepared.typing, weights, activations)
    settings = MatchOptions(alpha=options.alpha, objective=options.objective, seed=options.seed, zip=rule)
    return method(problem, settings)


def _comparable(job: Job) -> ModelSet:
    """The models as matching sees them: without the scales of folded BatchNorm where repair sets them anew."""
    models, typing = job.prepared.models, job.prepared.typing
    step = repair_step(models.template.graph, typing, job.options.repair)
    if step is None or step.which != "all" or job.source is None:
        return models
    return unfolded(models, plan_repair(models.template.graph, typing, "free").layers)
