"""Scaled scores: how far a regression has come from a baseline, 0, to the parents that learned it, 1."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmerge.evaluation.metrics import scaled_score
from onnxmerge.evaluation.scorer import Accuracy, Regression, Scores
from onnxmerge.evaluation.task import Task


def scaled_scores(
    tasks: Sequence[Task], scores: Scores, baseline: Scores | None, parents: Sequence[tuple[Sequence[int], Scores]]
) -> tuple[float | None, ...]:
    """The scaled score of each regression, against ``baseline`` and the mean loss of the parents that learned it.

    ``parents`` are pairs: the indices of the tasks that one learned, and its scores.
    """
    if baseline is None:
        return tuple(None for _ in tasks)
    return tuple(
        _scaled(task, own, lowest, [theirs.tasks[index] for learned, theirs in parents if index in learned])
        for index, (task, own, lowest) in enumerate(zip(tasks, scores.tasks, baseline.tasks, strict=True))
    )


def _scaled(
    task: Task,
    own: Accuracy | Regression | None,
    lowest: Accuracy | Regression | None,
    parents: Sequence[Accuracy | Regression | None],
) -> float | None:
    losses = [parent.loss(task.loss) for parent in parents if isinstance(parent, Regression)]
    if not (isinstance(own, Regression) and isinstance(lowest, Regression) and losses):
        return None
    return scaled_score(own.loss(task.loss), baseline=lowest.loss(task.loss), parent=sum(losses) / len(losses))
