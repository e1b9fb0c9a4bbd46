"""``--repair auto``: which repair of statistics lets the merged network reproduce its parents best.

Repair can hurt as well as help (Jordan et al., ICLR 2023, arXiv 2211.08403, and those who used it after), so all are
tried on the models at hand, and judged on data that none was measured on. Without such data a rule decides
(``repair_choice.repair_step``), which is also what is kept among equals.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from onnxmerge.api.job import Job
from onnxmerge.api.judging import REPAIR_SAMPLES, Judge, Judges, Verdict
from onnxmerge.api.matching import Evidence
from onnxmerge.api.restoring import Merged, Repairs, averaged, basis
from onnxmerge.errors import InputError
from onnxmerge.matching.method import MatchResult
from onnxmerge.merging.reconstruction import NothingToCompareError
from onnxmerge.merging.repair_choice import RepairStep, label, repair_step, repair_steps


@dataclass(frozen=True, slots=True)
class RepairCandidate:
    """A repair, and how the merged network did with it on held-out samples (see ``Verdict``)."""

    repair: str
    reconstruction: float
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class ChosenRepair:
    """What is to be done (None: nothing), and what was tried; nothing was where the user or the rule decided.

    ``merged`` is what came of it, where something was tried.
    """

    step: RepairStep | None
    tried: tuple[RepairCandidate, ...] = ()
    merged: Merged | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """A way to restore what averaging took, how it did, and how to make the network that is given out."""

    label: str
    step: RepairStep | None
    verdict: Verdict
    finish: Callable[[], Merged]


def choose_repair(job: Job, matched: MatchResult, evidence: Evidence, judges: Judges) -> ChosenRepair:
    """Try every repair by what ``judges`` say; where nothing can judge, or the user said which, a rule decides."""
    rule = repair_step(job.prepared.models.template.graph, job.prepared.typing, job.options.repair)
    if job.options.repair != "auto" or job.options.refines:
        return ChosenRepair(rule)
    try:
        judge = judges(job)
    except NothingToCompareError:
        judge = None
    if judge is None:
        return ChosenRepair(rule)
    trials = _trials(job, matched, evidence, judge)
    if not trials:
        return ChosenRepair(rule)
    best = max(trials, key=lambda each: each.verdict.rank)
    tried = tuple(RepairCandidate(each.label, each.verdict.reconstruction, each.verdict.accuracy) for each in trials)
    return ChosenRepair(best.step, tried, best.finish())


def _trials(job: Job, matched: MatchResult, evidence: Evidence, judge: Judge) -> list[_Trial]:
    """Every repair that can be done and judged, the rule's first; least squares last, where it is among them."""
    steps = repair_steps(job.prepared.models.template.graph, job.prepared.typing)
    averages, repairs = dict[tuple[bool, bool], Merged](), Repairs(job, matched, evidence)

    def by_step(step: RepairStep | None) -> _Trial:
        if basis(job, step) not in averages:
            averages[basis(job, step)] = averaged(job, matched, evidence, step)
        before = averages[basis(job, step)]
        found = repairs(before, step, REPAIR_SAMPLES)
        return _Trial(label(step), step, judge(found.weights, matched.matchings), lambda: repairs(before, step))

    def by_least_squares() -> _Trial:
        found = averaged(replace(job, options=replace(job.options, refine="ls")), matched, evidence, None)
        return _Trial(found.repaired, None, judge(found.weights, matched.matchings), lambda: found)

    every: list[Callable[[], _Trial]] = [partial(by_step, step) for step in steps]
    every += [by_least_squares] if job.options.refine == "auto" else []
    trials: list[_Trial] = []
    with job.progress("choosing a repair") as report:
        for index, trial in enumerate(every):
            with suppress(InputError):  # what cannot be measured or compared is not chosen
                trials.append(trial())
            report(index + 1, len(every))
    return trials
