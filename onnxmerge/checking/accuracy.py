"""Accuracy at each task, and how many points of it a model lost against its parents and their ensemble.

A drop is of the model against the best parent that learned the task, or against the ensemble, in points. Both answer
the same samples, so its 95% interval goes by those on which only one of them is right
(`evaluation.intervals.of_paired_difference`). The verdict goes by that interval: a model passes where all of it lies
within the bound. Where it does not, the model lost more, or the samples are too few to tell, which is no pass either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from onnxmerge.checking.finding import Finding, Verdict
from onnxmerge.checking.gate import Gate
from onnxmerge.checking.labelled import Score
from onnxmerge.checking.settings import Settings
from onnxmerge.checking.subject import Subject

NEEDS = ("behaviour.finite", "behaviour.deterministic")


def _task(subject: Subject) -> Iterator[Finding]:
    if subject.labelled is None:
        yield subject.skip(TASK.id, "no --labels")
        return
    for score in _of_the_model(subject):
        if math.isnan(score.accuracy):
            yield subject.skip(TASK.id, "a regression has no accuracy; see onnxmerge eval", where=score.task)
        else:
            low, high = (100 * end for end in score.interval)
            told = f"95% interval {low:.1f}% to {high:.1f}%, {score.samples} samples; --max-drop makes it a gate"
            yield Finding(
                TASK.id, "error", score.task, 100 * score.accuracy, None, "skipped", told, higher_is_better=True
            )


Reference = Callable[[Subject, str], Score | None]
"""What a model is held against at a task; None where there is nothing."""


def _best_parent(subject: Subject, task: str) -> Score | None:
    learned = (score for score in subject.scores if score.role == "parent" and score.task == task and score.learned)
    return max(learned, key=lambda score: score.accuracy, default=None)


def _ensemble(subject: Subject, task: str) -> Score | None:
    return next((score for score in subject.scores if score.role == "ensemble" and score.task == task), None)


def _drop(
    gate: str, reference: Reference, bound: Callable[[Settings], float | None], option: str
) -> Callable[[Subject], Iterator[Finding]]:
    """A gate that holds what was lost at each task against a reference to a bound."""

    def check(subject: Subject) -> Iterator[Finding]:
        if subject.labelled is None or not subject.parents:
            yield subject.skip(gate, "no --labels" if subject.labelled is None else "no --against")
            return
        for score in _of_the_model(subject):
            yield _lost(subject, gate, score, reference(subject, score.task), bound(subject.settings), option)

    return check


def _lost(
    subject: Subject, gate: str, score: Score, reference: Score | None, bound: float | None, option: str
) -> Finding:
    if reference is None or math.isnan(score.accuracy):
        why = "no parent learned it"
        if math.isnan(score.accuracy):
            why = "points are of accuracies, and a regression has none; leave the task out, or see onnxmerge eval"
        if bound is None:
            return subject.skip(gate, why, where=score.task)
        return Finding(gate, "error", score.task, None, bound, "unsupported", why)
    lost, ends = score.lost(reference)
    drop, (low, high) = 100 * lost, (100 * end for end in ends)
    named = dict(zip((parent.label for parent in subject.parents), subject.parent_names, strict=True))
    against = named.get(reference.model, reference.model)
    told = f"95% interval {low:.1f} to {high:.1f} points on {score.samples} samples, against {against}"
    if bound is None:
        told = f"{told}; {option} makes it a gate"
        return Finding(gate, "error", score.task, drop, None, "skipped", told, higher_is_better=False)
    verdict: Verdict = "pass" if high <= bound else "fail"
    if verdict == "fail" and drop <= bound:
        told = f"too few samples to tell: {told}; give more, or allow {high:.1f} points"
    return Finding(gate, "error", score.task, drop, bound, verdict, told, higher_is_better=False)


def _of_the_model(subject: Subject) -> Iterator[Score]:
    return (score for score in subject.scores if score.role == "model")


TASK = Gate("accuracy.task", "accuracy at each task, in percent", _task, NEEDS)
DROP = Gate(
    "accuracy.drop",
    "points lost against the best parent that learned the task",
    _drop("accuracy.drop", _best_parent, lambda settings: settings.max_drop, "--max-drop"),
    NEEDS,
    "max_drop",
)
ENSEMBLE = Gate(
    "accuracy.ensemble-drop",
    "points lost against the parents' ensemble",
    _drop("accuracy.ensemble-drop", _ensemble, lambda settings: settings.max_ensemble_drop, "--max-ensemble-drop"),
    NEEDS,
    "max_ensemble_drop",
)
