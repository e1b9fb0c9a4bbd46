"""``--method auto`` and ``--alpha auto``: which candidate reproduces the parents best on data kept from the statistics.

The statistics of all candidates are gathered once. A candidate then costs its matching and one evaluation: the merged
network, its statistics repaired on a few samples, is run on held-out data and compared with its parents' features
(``merging.reconstruction``), or by accuracy where labels are given. Candidates do not depend on each other: the job's
executor says where they are matched and judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from onnxmerge.calibration.subset import cuts
from onnxmerge.contracts import AUTO, describe
from onnxmerge.errors import InputError
from onnxmerge.matching.method import MatchResult
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.merging.repair.choice import RepairStep, repair_step
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import Measurements, match_each
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.restoring import merged
from onnxmerge.pipeline.selection.held_out import CandidateScore, HeldOutEvaluator, in_brief

_Score: TypeAlias = tuple[float, float | None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A method, its share of weight space (None: not known), and how it did on held-out samples.

    ``own`` are its own options that are not what they are by default.
    """

    method: str
    alpha: float | None
    reconstruction: float
    accuracy: float | None = None
    own: tuple[tuple[str, Any], ...] = ()


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


def choices(options: MergeOptions, models: int = 2) -> tuple[MergeOptions, ...]:
    """The candidates for so many models, every number in them chosen; the options themselves if nothing is searched."""
    if not options.searches:
        return (options,)
    if options.method != AUTO:
        return tuple(_chosen(options, ends=True))
    paired = options.rotate or (options.refinement is not None and options.refinement.one_to_one)
    return tuple(
        each
        for name, matcher in MATCHERS.items()
        if models >= matcher.least_models and not (paired and matcher.zips)
        for each in _chosen(options.by(name, options.refine), ends=False)
    )


def _chosen(how: MergeOptions, *, ends: bool) -> Iterator[MergeOptions]:
    """The options of a matcher, with each number that is left to the search.

    With ``ends`` also another matcher, which stands for a number at the end of the range.
    """
    name = next((name for name, value in how.own if value == AUTO), None)
    if name is None or how.matcher is None:
        yield how
        return
    told = describe(how.matcher.options)[name]
    for value in sorted({told.least, *told.tried, told.most}):
        if value not in told.instead:
            yield from _chosen(how.by(how.method, how.refine, **{name: value}), ends=ends)
        elif ends:
            yield how.by(told.instead[value], how.refine)


@dataclass(frozen=True, slots=True, eq=False)
class _Scoring:
    """The work of judging candidates: options and a matching go in, scores come out, or why it cannot be merged."""

    job: Job
    measurements: Measurements
    step: RepairStep | None
    evaluator: HeldOutEvaluator

    def open(self) -> Callable[[tuple[MergeOptions, MatchResult]], _Score | InputError]:
        """Nothing is to be got ready."""

        def score(item: tuple[MergeOptions, MatchResult]) -> _Score | InputError:
            how, matched = item
            try:
                weights = merged(replace(self.job, options=how), matched, self.measurements, self.step).weights
                found = self.evaluator(weights, matched.matchings)
            except InputError as error:  # a zip cannot merge what an alignment can: integers that belong to units
                return error
            return found.reconstruction, found.accuracy

        return score


def search(job: Job, measurements: Measurements, evaluator: HeldOutEvaluator) -> Found:
    """Try every candidate, repaired by rule; the first among equals is chosen.

    Raises InputError where no candidate can be merged.
    """
    step = repair_step(job.prepared.models.template.graph, job.prepared.typing, job.options.repair)
    few = in_brief(job)  # once, so that what parents have on it is measured once
    what = measurements.origin, None if few.source is None else cuts(few.source)
    every = choices(job.options, len(job.prepared.models.weights))
    best: tuple[CandidateScore, Job, MatchResult] | None = None
    tried: list[Candidate] = []
    notes: list[str] = []
    chosen = 0
    with job.progress("searching") as report:
        matchings: list[tuple[MergeOptions, MatchResult]] = []
        for index, (how, matched) in enumerate(zip(every, match_each(job, every, measurements), strict=True)):
            if isinstance(matched, InputError):
                notes.append(f"{how.method} was left out: {matched}")
            else:
                matchings.append((how, matched))
            report(index + 1, 2 * len(every))

        def scores(places: Sequence[int]) -> Iterator[_Score | InputError]:
            scoring = _Scoring(few, measurements, step, evaluator)
            return job.executor.map(scoring, [matchings[place] for place in places])

        found = job.store.kept_each("candidate", [(how, what) for how, _ in matchings], scores)
        for index, ((how, matched), own) in enumerate(zip(matchings, found, strict=True)):
            report(2 * len(every) - len(matchings) + index + 1, 2 * len(every))
            if isinstance(own, InputError):
                notes.append(f"{how.method} was left out: {own}")
                continue
            score = CandidateScore(*own)
            if best is None or score.rank > best[0].rank:
                best, chosen = (score, replace(job, options=how), matched), len(tried)
            tried.append(Candidate(how.method, how.alpha, score.reconstruction, score.accuracy, how.own))
    if best is None:
        raise InputError(f"none of {len(every)} candidates can be merged: {notes[-1]}")
    told = tuple(dict.fromkeys(notes))
    return Found(best[1], best[2], SearchReport(evaluator.criterion, evaluator.samples, tuple(tried), chosen, told))
