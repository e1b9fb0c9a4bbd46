"""``--repair auto``: which repair of statistics lets the merged network reproduce its parents best.

Repair can hurt as well as help (Jordan et al., ICLR 2023, arXiv 2211.08403, and those who used it after), so all are
tried on the models at hand, and judged on data that none was measured on. Those that set half of the statistics of
hidden units are tried only where setting both did not help. Without such data a rule decides
(``merging.repair.choice.repair_step``), which is also what is kept among equals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from onnxmerge.calibration.subset import Split
from onnxmerge.contracts import AUTO
from onnxmerge.errors import InputError
from onnxmerge.matching.method import MatchResult
from onnxmerge.merging.reconstruction import NothingToCompareError
from onnxmerge.merging.repair.choice import RepairStep, label, reach, repair_step, repair_steps
from onnxmerge.merging.repair.plan import Which
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import Measurements
from onnxmerge.pipeline.restoring import Merged, Repairs, averaged, basis, depends
from onnxmerge.pipeline.selection.held_out import CandidateScore, HeldOutEvaluator, HeldOutEvaluators


@dataclass(frozen=True, slots=True)
class RepairCandidate:
    """A repair, and how the merged network did with it on held-out samples (see ``CandidateScore``)."""

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
    score: CandidateScore
    finish: Callable[[], Merged]


def may_repair(job: Job, split: Split | None) -> Which | None:
    """The layers that ``choose_repair`` may come to repair, with data held out to choose by or without; None: none."""
    options, graph, typing = job.options, job.prepared.models.template.graph, job.prepared.typing
    if options.refinement is not None or options.task_vectors is not None or job.apart:
        return None
    chosen = split is not None and options.repair == AUTO
    return reach(repair_steps(graph, typing) if chosen else (repair_step(graph, typing, options.repair),))


def choose_repair(
    job: Job, matched: MatchResult, measurements: Measurements, evaluators: HeldOutEvaluators
) -> ChosenRepair:
    """Try every repair by what ``evaluators`` say; without any, or where the user said which, a rule decides."""
    rule = repair_step(job.prepared.models.template.graph, job.prepared.typing, job.options.repair)
    options = job.options
    if options.repair != AUTO or options.refinement is not None or options.task_vectors is not None:
        return ChosenRepair(rule)
    try:
        evaluator = evaluators(job)
    except NothingToCompareError:
        evaluator = None
    if evaluator is None:
        return ChosenRepair(rule)
    trials = _trials(job, matched, measurements, evaluator)
    if not trials:
        return ChosenRepair(rule)
    best = _best(trials)
    tried = tuple(RepairCandidate(each.label, each.score.reconstruction, each.score.accuracy) for each in trials)
    return ChosenRepair(best.step, tried, best.finish())


def _best(trials: Sequence[_Trial]) -> _Trial:
    """The first of the best."""
    return max(trials, key=lambda each: each.score.rank)


def _trials(job: Job, matched: MatchResult, measurements: Measurements, evaluator: HeldOutEvaluator) -> list[_Trial]:
    """Every repair that can be done and judged, the rule's first; last the refinements that do a repair's work."""
    steps = repair_steps(job.prepared.models.template.graph, job.prepared.typing)
    averages = dict[tuple[bool, bool], Merged]()
    repairs = Repairs(job, matched, measurements, reach(steps) or "fixed")

    def by_steps(together: Sequence[RepairStep | None]) -> list[_Trial]:
        key = basis(job, together[0])
        if key not in averages:
            averages[key] = averaged(job, matched, measurements, together[0])
        before = averages[key]

        def attempt() -> list[tuple[float, float | None]]:
            changes = [repairs.changes(before, step) or {} for step in together]
            scores = evaluator.each(before.weights, changes, matched.matchings)
            return [(score.reconstruction, score.accuracy) for score in scores]

        what = *depends(job, measurements, together[0]), [*map(label, together)]
        scores = job.store.kept("repairs", job.options, what, attempt)
        return [
            _Trial(label(step), step, CandidateScore(*score), partial(repairs, before, step))
            for step, score in zip(together, scores, strict=True)
        ]

    def refined(name: str) -> list[_Trial]:
        found = averaged(replace(job, options=replace(job.options, refine=name)), matched, measurements, None)
        return [_Trial(found.repaired, None, evaluator(found.weights, matched.matchings), lambda: found)]

    parts = [step for step in steps if step is not None and step.hidden and not step.whole]
    first = [partial(by_steps, each) for each in _alike(job, [step for step in steps if step not in parts])]
    second = [partial(by_steps, each) for each in _alike(job, parts)]
    last = [partial(refined, each.name) for each in job.options.refinements if not (each.one_to_one and matched.zipped)]
    trials: list[_Trial] = []
    with job.progress("choosing a repair") as report:

        def attempt(every: Sequence[Callable[[], list[_Trial]]], done: int) -> None:
            for index, several in enumerate(every, start=1):
                with suppress(InputError):  # what cannot be measured or compared is not chosen
                    trials.extend(several())
                report(done + index, len(first) + len(second) + len(last))

        attempt(first, 0)
        best = _best(trials).step if trials else None
        if best is None or not best.hidden:
            attempt(second, len(first))
        attempt(last, len(first) + len(second))
    order = [*map(label, steps)]
    return sorted(trials, key=lambda trial: order.index(trial.label) if trial.label in order else len(order))


def _alike(job: Job, steps: Sequence[RepairStep | None]) -> list[list[RepairStep | None]]:
    """The steps, those together that change nothing but the output layers of one average: they are judged in one run.

    Others change all weights, and each is judged by itself, so that no more than one is in memory.
    """
    groups: dict[object, list[RepairStep | None]] = {}
    for step in steps:
        of_outputs = step is None or step.which == "fixed"
        groups.setdefault((basis(job, step), of_outputs or step), []).append(step)
    return list(groups.values())
