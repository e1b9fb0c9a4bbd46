"""``--repair auto``: which repair of statistics lets the merged network reproduce its parents best.

Repair can hurt as well as help (Jordan et al., ICLR 2023, arXiv 2211.08403, and those who used it after), so all are
tried on the models at hand, and judged on data that none was measured on. Without such data a rule decides
(``repair_choice.repair_step``), which is also what is kept among equals.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from onnxmerge.api.job import Job
from onnxmerge.api.judging import REPAIR_SAMPLES, Judges, Verdict
from onnxmerge.api.matching import Evidence
from onnxmerge.api.restoring import Merged, Repairs, averaged, basis
from onnxmerge.errors import InputError
from onnxmerge.matching.methods import MatchResult
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


def choose_repair(job: Job, matched: MatchResult, evidence: Evidence, judges: Judges) -> ChosenRepair:
    """Try every repair by what ``judges`` say; where nothing can judge, or the user said which, a rule decides."""
    graph, typing = job.prepared.models.template.graph, job.prepared.typing
    rule = repair_step(graph, typing, job.options.repair)
    if job.options.repair != "auto" or job.options.refine != "none":
        return ChosenRepair(rule)
    try:
        judge = judges(job)
    except NothingToCompareError:
        judge = None
    if judge is None:
        return ChosenRepair(rule)
    tried: list[tuple[RepairStep | None, Verdict]] = []
    steps, averages = repair_steps(graph, typing), dict[tuple[bool, bool], Merged]()
    repairs = Repairs(job, matched, evidence)
    with job.progress("choosing a repair") as report:
        for index, step in enumerate(steps):
            with suppress(InputError):  # what cannot be measured or compared is not chosen
                if basis(job, step) not in averages:
                    averages[basis(job, step)] = averaged(job, matched, evidence, step)
                found = repairs(averages[basis(job, step)], step, REPAIR_SAMPLES)
                tried.append((step, judge(found.weights, matched.matchings)))
            report(index + 1, len(steps))
    if not tried:
        return ChosenRepair(rule)
    best, _ = max(tried, key=lambda each: each[1].rank)
    candidates = tuple(RepairCandidate(label(step), each.reconstruction, each.accuracy) for step, each in tried)
    return ChosenRepair(best, candidates, repairs(averages[basis(job, best)], best))
