"""The scores of one model, gathered batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import scipy
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.evaluation.intervals import Interval, of_mean_of_rates
from onnxmerge.evaluation.metrics import Errors, Hits, Reliability, errors, hits, ranks, reliability
from onnxmerge.evaluation.task import ABSENT, Task
from onnxmerge.evaluation.truth import Truth

Answer: TypeAlias = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Sureness:
    """How sure a model is: for each task values [n, rows] whose softmax are the probabilities of its classes, or None.

    ``apart`` says that the tasks have different sources, which know nothing of each other. Then the values are
    logarithms of probabilities, and among the classes of all tasks an answer is as sure as its own source says.
    Otherwise the softmax is over all of these classes.
    """

    logits: Sequence[Answer | None]
    apart: bool = False


JOINT = -1
"""Stands for all classifications together where sums are kept by the index of a task."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Top-k accuracies from 0 to 1, in the order of the k asked for, over ``samples``; their 95% ``intervals``.

    ``calibration_error`` is the ECE (see `metrics.Reliability`), None where nobody said how sure answers are.
    """

    top: tuple[float, ...]
    samples: int
    intervals: tuple[Interval, ...]
    calibration_error: float | None = None


@dataclass(frozen=True, slots=True)
class Regression:
    """Mean absolute and mean squared error of each column, over the targets that there are, and 95% intervals."""

    absolute: tuple[float, ...]
    squared: tuple[float, ...]
    samples: int
    absolute_intervals: tuple[Interval, ...]
    squared_intervals: tuple[Interval, ...]

    def loss(self, kind: str) -> float:
        """The mean over columns of the ``absolute`` or the ``squared`` errors."""
        values: tuple[float, ...] = getattr(self, kind)
        return sum(values) / len(values)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one model: a score for each task (None: it has no answer), their mean, and that over all classes together.

    ``average`` is the mean accuracy over the classifications for each k, None where one has no answer or there is
    none. ``joint`` is None where tasks are labellings of the same samples, where there is only one, or one has no
    answer. ``average_intervals`` are the 95% intervals of ``average``; ``average_calibration_error`` is the mean ECE.
    """

    tasks: tuple[Accuracy | Regression | None, ...]
    average: tuple[float, ...] | None
    joint: Accuracy | None
    average_intervals: tuple[Interval, ...] | None = None
    average_calibration_error: float | None = None


class Scorer:
    """Adds up hits, confidence and errors as batches come, in the order of the labels.

    It holds no output, and of each sample whether the answer was right.

    The measures are those of MuDSC (Xu et al., CVPR 2024, 2403.01753): accuracy among the classes of each task, on
    the samples of that task, and *joint* accuracy among the classes of all tasks together, on all samples.
    """

    def __init__(self, tasks: Sequence[Task], truth: Truth, top_k: Sequence[int] = (1,)) -> None:
        self._tasks, self._truth, self._top_k = tuple(tasks), truth, tuple(top_k)
        self._seen = 0
        self._hits: dict[int, Hits] = {}
        self._reliability: dict[int, Reliability] = {}
        self._errors: dict[int, Errors] = {}
        self._right: dict[int, list[NDArray[np.bool_]]] = {}

    def update(self, answers: Sequence[Answer | None], sure: Sureness | None = None) -> None:
        """Add the next samples: for each task scores [n, rows], predictions [n, columns], or None for no answer.

        Without how ``sure`` the model is there is no calibration error. Scores of different tasks must be comparable
        with one another for the joint accuracy (see `heads`).

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
            if answer is None:
                continue
            require_columns(task, answer, right)
            if task.kind == "regression":
                _accumulate(self._errors, index, errors(answer, right))
            else:
                chances = None if sure is None else _softmax(sure.logits[index])
                self._judge(index, answer, chances, right, right != ABSENT)
        joint = self._beside_each_other(answers)
        if joint is not None:
            right = self._jointly_right(answers, part)
            logits = None if sure is None else self._beside_each_other(sure.logits)
            chances = np.exp(logits) if logits is not None and sure is not None and sure.apart else _softmax(logits)
            self._judge(JOINT, joint, chances, right, self._truth.labelled[part])

    def scores(self) -> Scores:
        """The scores of all samples; InputError if there have been fewer than labels."""
        if self._seen != self._truth.samples:
            raise InputError(
                f"there are {self._seen} samples and {self._truth.samples} labels; one for each is expected"
            )
        tasks = tuple(self._accuracy(i) or self._regression(i) for i in range(len(self._tasks)))
        asked = [score for score, task in zip(tasks, self._tasks, strict=True) if task.kind == "classification"]
        known = [score for score in asked if isinstance(score, Accuracy)]
        if not known or len(known) < len(asked):
            return Scores(tasks, None, self._accuracy(JOINT))
        apart = self._truth.owner is not None
        average = tuple(sum(rates) / len(rates) for rates in zip(*(score.top for score in known), strict=True))
        intervals = tuple(
            of_mean_of_rates([score.top[k] for score in known], [score.intervals[k] for score in known], apart=apart)
            for k in range(len(self._top_k))
        )
        errors = [score.calibration_error for score in known if score.calibration_error is not None]
        error = sum(errors) / len(errors) if len(errors) == len(known) else None
        return Scores(tasks, average, self._accuracy(JOINT), intervals, error)

    def right(self, index: int) -> NDArray[np.bool_]:
        """For each sample of a classification, in order, whether the highest score was the right one."""
        return np.concatenate(self._right.get(index) or [np.empty(0, np.bool_)])

    def _accuracy(self, index: int) -> Accuracy | None:
        if index not in self._hits:
            return None
        total, sure = self._hits[index], self._reliability.get(index)
        return Accuracy(total.rates, total.samples, total.intervals, None if sure is None else sure.error)

    def _regression(self, index: int) -> Regression | None:
        if index not in self._errors:
            return None
        total = self._errors[index]
        absolute, squared = total.means("absolute").tolist(), total.means("squared").tolist()
        intervals = total.intervals("absolute"), total.intervals("squared")
        return Regression(tuple(absolute), tuple(squared), int(total.samples.max()), *intervals)

    def _judge(
        self,
        index: int,
        scores: Answer,
        chances: Answer | None,
        right: NDArray[Any],
        counted: NDArray[np.bool_],
    ) -> None:
        """Add the hits of the samples that are ``counted``, and how sure they are by the ``chances`` of all classes."""
        rank = ranks(scores[counted], right[counted])
        _accumulate(self._hits, index, hits(rank, self._top_k))
        self._right.setdefault(index, []).append(rank < 1)
        if chances is not None:
            found = reliability(chances[counted], scores[counted], right[counted])
            _accumulate(self._reliability, index, found)

    def _beside_each_other(self, answers: Sequence[Answer | None]) -> Answer | None:
        """The classes of all tasks [n, rows]; None where there is no joint accuracy or a task has no answer."""
        if self._truth.owner is None:
            return None
        each = [given for given, task in zip(answers, self._tasks, strict=True) if task.kind == "classification"]
        known = [given for given in each if given is not None]
        return np.concatenate(known, axis=1) if len(known) == len(each) else None

    def _jointly_right(self, answers: Sequence[Answer | None], part: slice) -> NDArray[np.int64]:
        """The right one of the classes of all tasks, for each sample; `ABSENT` where no task knows its label."""
        owner = np.full(0, ABSENT) if self._truth.owner is None else self._truth.owner[part]
        right, start = np.full(len(owner), ABSENT), 0
        for index, (task, answer) in enumerate(zip(self._tasks, answers, strict=True)):
            if task.kind == "classification" and answer is not None:
                mine = owner == index
                right[mine] = start + self._truth.answers[index][part][mine]
                start += answer.shape[1]
        return right


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


def require_columns(task: Task, answer: Answer, right: NDArray[Any]) -> None:
    """Raise InputError where an answer [n, width] has no row for a right one, or other columns than the targets."""
    width = answer.shape[1]
    if task.kind == "regression" and width != right.shape[1]:
        raise InputError(
            f"task {task.name!r} has {right.shape[1]} targets for each sample, the output {width} columns; name the "
            "columns that answer"
        )
    if task.kind == "classification" and right.max(initial=ABSENT) >= width:
        raise InputError(f"task {task.name!r} has label {right.max()}, the model tells {width} classes apart (from 0)")


def _softmax(logits: Answer | None) -> Answer | None:
    with np.errstate(invalid="ignore"):  # of infinite values, which only say nan
        return None if logits is None else scipy.special.softmax(logits, axis=1)


M = TypeVar("M", Hits, Reliability, Errors)


def _accumulate(totals: dict[int, M], index: int, found: M) -> None:
    totals[index] = totals[index] + found if index in totals else found
