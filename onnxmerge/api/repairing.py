"""``--repair auto``: which repair of statistics lets the merged network reproduce its parents best.

Repair can hurt as well as help (Jordan et al., ICLR 2023, arXiv 2211.08403, and those who used it after), so all are
tried on the models at hand, and judged on data that none was measured on. Without such data a rule decides
(``repair_choice.repair_step``), which is also what is kept among equals.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxmerge.api.job import Job
from onnxmerge.api.judging import Judge
from onnxmerge.api.matching import Evidence
from onnxmerge.matching.methods import MatchResult
from onnxmerge.merging.repair_choice import RepairStep, label, repair_step, repair_steps


@dataclass(frozen=True, slots=True)
class RepairCandidate:
    """A repair, and how the merged network did with it on held-out samples (see ``Verdict``)."""

    repair: str
    reconstruction: float
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class ChosenRepair:
    """What is to be done (None: nothing), and what was tried; nothing was where the user or the rule decided."""

    step: RepairStep | None
    tried: tuple[RepairCandidate, ...] = ()


def choose_repair(job: Job, matched: MatchResult, evidence: Evidence, judge: Judge | None) -> ChosenRepair:
    """Try every repair by ``judge``; without one, or where the user said which, there is nothing to try."""
    graph, typing = job.prepared.models.template.graph, job.prepared.typing
    if judge is None or job.options.repair != "auto":
        return ChosenRepair(repair_step(graph, typing, job.options.repair))
    steps = repair_steps(graph, typing)
    with job.progress("choosing a repair") as report:
        verdicts = []
        for index, step in enumerate(steps):
            verdicts.append(judge(job, matched, evidence, step))
            report(index + 1, len(steps))
    best = max(range(len(steps)), key=lambda index: verdicts[index].rank)
    tried = tuple(
        RepairCandidate(label(step), verdict.reconstruction, verdict.accuracy)
        for step, verdict in zip(steps, verdicts, strict=True)
    )
    return ChosenRepair(steps[best], tried)
