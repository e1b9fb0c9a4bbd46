"""The scores of one model, gathered batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.evaluation.metrics import Errors, Hits, errors, hits
from onnxmerge.evaluation.task import ABSENT, Task
from onnxmerge.evaluation.truth import Truth


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Top-k accuracies from 0 to 1, in the order of the k asked for, over ``samples``."""

    top: tuple[float, ...]
    samples: int


@dataclass(frozen=True, slots=True)
class Regression:
    """Mean absolute and mean squared error of each column, over the targets that there are."""

    absolute: tuple[float, ...]
    squared: tuple[float, ...]
    samples: int

    def loss(self, kind: str) -> float:
        """The mean over columns of the ``absolute`` or the ``squared`` errors."""
        values: tuple[float, ...] = getattr(self, kind)
        return sum(values) / len(values)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one model: a score for each task (None: it has no answer), their mean, and that over all classes together.

    ``average`` is the mean accuracy over the classifications for each k, None where one has no answer or there is
    none. ``joint`` is None where tasks are labellings of the same samples, where there is only one, or one has no
    answer.
    """

    tasks: tuple[Accuracy | Regression | None, ...]
    average: tuple[float, ...] | None
    joint: Accuracy | None


class Scorer:
    """Adds up hits and errors as batches come, in the order of the labels; holds no output.

    The measures are those of MuDSC (Xu et al., CVPR 2024, 2403.01753): accuracy among the classes of each task, on
    the samples of that task, and *joint* accuracy among the classes of all tasks together, on all samples.
    """

    def __init__(self, tasks: Sequence[Task], truth: Truth, top_k: Sequence[int] = (1,)) -> None:
        self._tasks, self._truth, self._top_k = tuple(tasks), truth, tuple(top_k)
        self._seen = 0
        self._hits: dict[int, Hits] = {}
        self._errors: dict[int, Errors] = {}
        self._joint: Hits | None = None

    def update(self, answers: Sequence[NDArray[np.floating[Any]] | None]) -> None:
        """Add the next samples: for each task scores [n, rows], predictions [n, columns], or None for no answer.

        Scores of different tasks must be comparable with one another for the joint accuracy (see `heads`).

        Raises:
            InputError: there are more samples than labels, or an answer has another shape than the labels need.

        """
        counts = {len(answer) for answer in answers if answer is not None}
        if len(counts) != 1:
            raise InputError(
                f"the outputs for one batch have {sorted(counts) or 'no'} rows, expected one number of rows"
            )
        part = slice(self._seen, self._seen + counts.pop())
        self._seen = part.stop
        if self._seen > self._truth.samples:
            raise InputError(f"there are more samples than labels ({self._truth.samples}); one for each is expected")
        for index, (task, answer) in enumerate(zip(self._tasks, answers, strict=True)):
            right = self._truth.answers[index][part]
            if answer is not None and task.kind == "regression":
                _accumulate(self._errors, index, _errors(task, answer, right))
            elif answer is not None:
                _accumulate(self._hits, index, self._own_hits(task, answer, right))
        joint = self._joint_hits(answers, part)
        if joint is not None:
            self._joint = joint if self._joint is None else self._joint + joint

    def scores(self) -> Scores:
        """The scores of all samples; InputError if there have been fewer than labels."""
        if self._seen != self._truth.samples:
            raise InputError(
                f"there are {self._seen} samples and {self._truth.samples} labels; one for each is expected"
            )
        joint = None if self._joint is None else Accuracy(self._joint.rates, self._joint.samples)
        return Scores(tuple(map(self._score, range(len(self._tasks)))), self._average(), joint)

    def _score(self, index: int) -> Accuracy | Regression | None:
        if index in self._errors:
            total = self._errors[index]
            absolute, squared = total.means("absolute").tolist(), total.means("squared").tolist()
            return Regression(tuple(absolute), tuple(squared), int(total.samples.max()))
        if index in self._hits:
            return Accuracy(self._hits[index].rates, self._hits[index].samples)
        return None

    def _average(self) -> tuple[float, ...] | None:
        asked = [index for index, task in enumerate(self._tasks) if task.kind == "classification"]
        if not asked or not self._hits.keys() >= set(asked):
            return None
        rates = zip(*(self._hits[index].rates for index in asked), strict=True)
        return tuple(sum(values) / len(values) for values in rates)

    def _own_hits(self, task: Task, scores: NDArray[Any], right: NDArray[Any]) -> Hits:
        mine = right != ABSENT
        if right.max(initial=ABSENT) >= scores.shape[1]:
            raise InputError(
                f"task {task.name!r} has label {right.max()}, the model tells {scores.shape[1]} classes apart (from 0)"
            )
        return hits(scores[mine], right[mine], self._top_k)

    def _joint_hits(self, answers: Sequence[NDArray[Any] | None], part: slice) -> Hits | None:
        """Hits among the classes of all tasks; samples of no task are wrong, those without a label left out."""
        if self._truth.owner is None:
            return None
        owner, labelled = self._truth.owner[part], self._truth.labelled[part]
        right, start, scores = np.full(len(owner), ABSENT), 0, []
        for index, task in enumerate(self._tasks):
            if task.kind == "classification":
                answer = answers[index]
                if answer is None:
                    return None
                mine = owner == index
                right[mine] = start + self._truth.answers[index][part][mine]
                start += answer.shape[1]
                scores.append(answer)
        return hits(np.concatenate(scores, axis=1)[labelled], right[labelled], self._top_k)


def scores_of_means(tasks: Sequence[Task], right: Truth) -> Scores:
    """The scores of the mean target as the answer to every sample; classifications have none."""
    scorer = Scorer(tasks, right)
    scorer.update(
        [
            np.broadcast_to(np.nanmean(targets, axis=0), targets.shape) if task.kind == "regression" else None
            for task, targets in zip(tasks, right.answers, strict=True)
        ]
    )
    return scorer.scores()


def _errors(task: Task, predictions: NDArray[Any], targets: NDArray[Any]) -> Errors:
    if predictions.shape != targets.shape:
        raise InputError(
            f"task {task.name!r} has {targets.shape[1]} targets for each sample, the output {predictions.shape[1]} "
            "columns; name the columns that answer"
        )
    return errors(predictions, targets)


M = TypeVar("M", Hits, Errors)


def _accumulate(totals: dict[int, M], index: int, found: M) -> None:
    totals[index] = totals[index] + found if index in totals else found
