"""The stages before merging: what is measured in the parents, and which of their units are alike."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmerge.api.job import Job
from onnxmerge.calibration.statistics import GramRequest, MomentRequest, Statistics, gather
from onnxmerge.errors import UsageError
from onnxmerge.matching.methods import MATCHERS, MatchOptions, MatchProblem, MatchResult
from onnxmerge.matching.zipping import ZipRule
from onnxmerge.merging.folding import unfolded
from onnxmerge.merging.repair import RepairPlan, plan_repair
from onnxmerge.merging.repair_choice import repair_step, repair_steps
from onnxmerge.model.network import ModelSet


def repair_plan(job: Job) -> RepairPlan | None:
    """The layers that may be repaired, whose statistics must be measured in the parents; None where none is."""
    choice, graph, typing = job.options.repair, job.prepared.models.template.graph, job.prepared.typing
    step = repair_step(graph, typing, choice)
    if step is None or (job.options.refine != "none" and not job.options.searches):
        return None
    if job.source is None:
        if choice != "auto":
            raise UsageError(f"--repair {choice} measures activations: give calibration data (--calib)")
        return None
    steps = repair_steps(graph, typing) if choice == "auto" else (step,)
    everywhere = any(each is not None and each.which == "all" for each in steps)
    return plan_repair(graph, typing, "all" if everywhere else step.which)


def statistics_of(job: Job, plan: RepairPlan | None, methods: Sequence[str]) -> Statistics | None:
    """What the methods and the repair need to know of the parents' activations, in one pass over the data."""
    prepared, chosen = job.prepared, [MATCHERS[name] for name in methods]
    wanted = any(method.needs_activations for method in chosen)
    together = any(method.needs_activations and method.zips for method in chosen)
    grams = [GramRequest(space, taps) for space, taps in prepared.typing.taps.items()] if wanted else []
    requests: list[GramRequest | MomentRequest] = [*grams, *(plan.requests if plan is not None else ())]
    if job.source is None or not requests:
        return None
    models = prepared.models
    every = range(len(models.weights))
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
    """Match the units of all models by the chosen method."""
    options, weights = job.options, _comparable(job).weights
    grams = statistics.gram if statistics is not None else {}
    method, rule = MATCHERS[options.method], ZipRule(options.zip_a, options.zip_b)
    if method.zips:
        joint = {space: gram.correlations(len(weights)) for space, gram in grams.items() if gram.cross}
        problem = MatchProblem(job.prepared.typing, weights, together=joint if method.needs_activations else {})
    else:
        activations = [
            {space: gram.correlation(0, other) for space, gram in grams.items()} for other in range(1, len(weights))
        ]
        problem = MatchProblem(job.prepared.typing, weights, activations)
    settings = MatchOptions(alpha=options.share, objective=options.objective, seed=options.seed, zip=rule)
    return method(problem, settings)


def _comparable(job: Job) -> ModelSet:
    """The models as matching sees them: without the scales of folded BatchNorm where repair sets them anew."""
    models, typing = job.prepared.models, job.prepared.typing
    step = repair_step(models.template.graph, typing, job.options.repair)
    if step is None or step.which != "all" or job.source is None:
        return models
    return unfolded(models, plan_repair(models.template.graph, typing, "free").layers)
