"""The parents together: each answers the tasks that it learned. The bound that a merged model approaches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxmerge.evaluation.heads import Scores, log_probabilities
from onnxmerge.evaluation.task import Task


def ensemble(
    tasks: Sequence[Task], answers: Sequence[Sequence[Scores | None]], learned: Sequence[Sequence[int]]
) -> list[Scores | None]:
    """Answers of all parents together: for each task those of the parents that learned it.

    ``answers[p][t]`` are the scores or predictions of parent ``p`` for task ``t``, and ``learned[p]`` the tasks that
    it learned. Scores are made comparable as logarithms of probabilities. Where several parents learned a task, their
    probabilities are averaged; predictions, and outputs that a threshold divides, are averaged as they are. A task
    that nobody learned has no answer.
    """
    found: list[Scores | None] = []
    for index, task in enumerate(tasks):
        own = [given[index] for given, known in zip(answers, learned, strict=True) if index in known]
        found.append(_together(task, [given for given in own if given is not None]))
    return found


def _together(task: Task, answers: Sequence[Scores]) -> Scores | None:
    if not answers:
        return None
    mean: Scores = np.mean(answers, axis=0)
    if task.kind == "regression":
        return mean
    if task.threshold is not None:
        return log_probabilities(task, mean)
    scores = [log_probabilities(task, given) for given in answers]
    return scores[0] if len(scores) == 1 else np.asarray(np.logaddexp.reduce(scores, axis=0)) - np.log(len(scores))
