"""Accuracy at each task, and how many points of it a model lost against its parents and their ensemble.

A drop is of the model against the best parent that learned the task, in points, with its 95% interval from those of
both accuracies (Newcombe, Interval estimation for the difference between independent proportions, Statistics in
Medicine 1998, method 10; wider than it need be, since both are scored on the same samples). The gate goes by the drop
itself: the interval says how far samples let it be known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from onnxmerge.checking.finding import Finding, Verdict
from onnxmerge.checking.gate import Gate
from onnxmerge.checking.subject import Score, Subject

NEEDS = ("behaviour.finite", "behaviour.deterministic")


def _task(subject: Subject) -> Iterator[Finding]:
    if subject.judge is None:
        yield subject.skip(TASK.id, "no --labels")
        return
    for score in subject.scores:
        if score.role == "model" and math.isnan(score.accuracy):
            yield subject.skip(TASK.id, "a regression has no accuracy; see onnxmerge eval", where=score.task)
        elif score.role == "model":
            told = f"95% interval {_percent(score.interval)}, {score.samples} samples; --max-drop makes it a gate"
            yield Finding(
                TASK.id, "error", score.task, 100 * score.accuracy, None, "skipped", told, higher_is_better=True
            )


def _drop(subject: Subject) -> Iterator[Finding]:
    if subject.judge is None or not subject.parents:
        yield subject.skip(DROP.id, "no --labels" if subject.judge is None else "no --against")
        return
    for score in (each for each in subject.scores if each.role == "model"):
        if math.isnan(score.accuracy):
            yield _regression(subject, score.task)
            continue
        parents = _of(subject.scores, "parent", score.task, learned=True)
        best = max(parents, key=lambda each: each.accuracy, default=None)
        if best is None:
            yield subject.skip(DROP.id, "no parent learned it", where=score.task)
            continue
        drop, low, high = difference(best, score)
        told = f"95% interval {low:.1f} to {high:.1f} points on {score.samples} samples, against {best.model}"
        bound = subject.settings.max_drop
        if bound is None:
            yield Finding(
                DROP.id,
                "error",
                score.task,
                drop,
                None,
                "skipped",
                f"{told}; --max-drop makes it a gate",
                higher_is_better=False,
            )
            continue
        verdict: Verdict = "pass" if drop <= bound else "fail"
        yield Finding(DROP.id, "error", score.task, drop, bound, verdict, told, higher_is_better=False)


def _regression(subject: Subject, task: str) -> Finding:
    told = "points are of accuracies, and a regression has none; leave the task out, or see onnxmerge eval"
    if subject.settings.max_drop is None:
        return subject.skip(DROP.id, told, where=task)
    return Finding(DROP.id, "error", task, None, subject.settings.max_drop, "unsupported", told)


def _ensemble(subject: Subject) -> Iterator[Finding]:
    rows = () if subject.judge is None or not subject.parents else subject.scores
    for score in (each for each in rows if each.role == "model"):
        for together in () if math.isnan(score.accuracy) else _of(rows, "ensemble", score.task):
            drop, low, high = difference(together, score)
            told = f"measured only: 95% interval {low:.1f} to {high:.1f} points"
            yield Finding(ENSEMBLE.id, "error", score.task, drop, None, "skipped", told, higher_is_better=False)
    if not rows:
        yield subject.skip(ENSEMBLE.id, "no --labels" if subject.judge is None else "no --against")


def difference(reference: Score, score: Score) -> tuple[float, float, float]:
    """How many points ``score`` lies below ``reference``, and the ends of its interval."""
    p, (p_low, p_high) = reference.accuracy, reference.interval
    q, (q_low, q_high) = score.accuracy, score.interval
    below, above = math.hypot(p - p_low, q_high - q), math.hypot(p_high - p, q - q_low)
    return 100 * (p - q), 100 * (p - q - below), 100 * (p - q + above)


def _of(scores: Sequence[Score], role: str, task: str, *, learned: bool = False) -> list[Score]:
    return [each for each in scores if each.role == role and each.task == task and (each.learned or not learned)]


def _percent(ends: tuple[float, float]) -> str:
    return f"{100 * ends[0]:.1f}% to {100 * ends[1]:.1f}%"


TASK = Gate("accuracy.task", "accuracy at each task, in percent", _task, NEEDS)
DROP = Gate("accuracy.drop", "points lost against the best parent that learned the task", _drop, NEEDS, "max_drop")
ENSEMBLE = Gate("accuracy.ensemble-drop", "points lost against the parents' ensemble", _ensemble, NEEDS)
