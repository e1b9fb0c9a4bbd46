"""``--method auto`` and ``--alpha auto``: which candidate reproduces the parents best on data kept from the statistics.

The statistics of all candidates are gathered once. A candidate then costs its matching and one evaluation: the merged
network, its statistics repaired on a few samples, is run on held-out data and compared with its parents' features
(``merging.reconstruction``), or by accuracy where labels are given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnxmerge.errors import InputError, UsageError
from onnxmerge.matching.joint_method import JointMethod
from onnxmerge.matching.method import MatchResult
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.merging.repair.choice import repair_step
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import Measurements, match
from onnxmerge.pipeline.methods import METHODS
from onnxmerge.pipeline.options import AUTO, MergeOptions
from onnxmerge.pipeline.restoring import merged
from onnxmerge.pipeline.selection.held_out import CandidateScore, HeldOutEvaluator, in_brief

GRID = tuple(step / 10 for step in range(1, 10))
"""Shares of weight space between the ends."""

ENDS = {"mudsc-align": ("act-align", "rebasin"), "mudsc-zip": ("zipit", "weight-zip")}
"""What a mixing method becomes where alpha is 0 and 1."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A method with its share of weight space, and how it did on held-out samples (see ``CandidateScore``)."""

    method: str
    alpha: float
    reconstruction: float
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class SearchReport:
    """What was tried, in order, and which of it was ``chosen``.

    ``criterion`` says what decided on ``samples`` held-out samples: reconstruction, or accuracy.
    """

    criterion: str
    samples: int
    candidates: tuple[Candidate, ...]
    chosen: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The job with the method and alpha that were chosen, their matching, and the report."""

    job: Job
    matched: MatchResult
    report: SearchReport


def choices(options: MergeOptions, models: int = 2) -> tuple[tuple[str, float], ...]:
    """The candidates for so many models, as (method, alpha); one if nothing is searched.

    Two models have one matching to each other, so joint methods are tried for more. Raises UsageError if there is no
    choice.
    """
    if not options.searches:
        return ((options.method, options.weight_share),)
    if options.objective != "correlation":
        raise UsageError(f"--objective {options.objective} is for method rebasin alone; leave it out of a search")
    if options.method != AUTO:
        if isinstance(METHODS[options.method], JointMethod):
            return tuple((options.method, alpha) for alpha in (0.0, *GRID, 1.0))
        if options.method not in ENDS:
            raise UsageError(
                f"method {options.method} has no alpha to search; take one of {', '.join(ENDS)}, or --method auto"
            )
        low, high = ENDS[options.method]
        return ((low, 0.0), *((options.method, alpha) for alpha in GRID), (high, 1.0))
    grid = GRID if options.alpha == AUTO else (options.weight_share,)
    found: list[tuple[str, float]] = []
    for name, method in MATCHERS.items():
        if method.zips and (options.rotate or options.refine == "regmean"):
            continue
        found.extend((name, alpha) for alpha in (grid if method.alpha is None else (method.alpha,)))
    joint = [name for name, method in METHODS.items() if models > 2 and isinstance(method, JointMethod)]
    found.extend((name, alpha) for name in joint for alpha in ((0.0, *grid, 1.0) if options.alpha == AUTO else grid))
    return tuple(found)


def search(job: Job, measurements: Measurements, evaluator: HeldOutEvaluator) -> Found:
    """Try every candidate, repaired by rule; the first among equals is chosen.

    Raises InputError where no candidate can be merged.
    """
    step = repair_step(job.prepared.models.template.graph, job.prepared.typing, job.options.repair)
    best: tuple[CandidateScore, Job, MatchResult] | None = None
    tried: list[Candidate] = []
    notes: list[str] = []
    chosen, every = 0, choices(job.options, len(job.prepared.models.weights))
    with job.progress("searching") as report:
        for index, (method, alpha) in enumerate(every):
            trial = replace(job, options=replace(job.options, method=method, alpha=alpha))
            try:
                matched = match(trial, measurements)
                weights = merged(in_brief(trial), matched, measurements, step).weights
                score = evaluator(weights, matched.matchings)
            except InputError as error:  # a zip cannot merge what an alignment can: integers that belong to units
                notes.append(f"{method} was left out: {error}")
                continue
            finally:
                report(index + 1, len(every))
            if best is None or score.rank > best[0].rank:
                best, chosen = (score, trial, matched), len(tried)
            tried.append(Candidate(method, alpha, score.reconstruction, score.accuracy))
    if best is None:
        raise InputError(f"none of {len(every)} candidates can be merged: {notes[-1]}")
    told = tuple(dict.fromkeys(notes))
    return Found(best[1], best[2], SearchReport(evaluator.criterion, evaluator.samples, tuple(tried), chosen, told))
