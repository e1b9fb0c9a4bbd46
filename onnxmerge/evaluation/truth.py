"""What the right answers are: the labels of all samples, as each task understands them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.evaluation.labels import Labels
from onnxmerge.evaluation.task import ABSENT, Task

_MOST = 1 << 31
"""No label is as large."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The right answers to each task, and which samples have a label at all.

    ``answers[t]`` is int64 [N] for a classification, the right row or -1 where a sample is not of the task; for a
    regression float64 [N, columns], nan where there is no target. ``labelled`` [N] is False where the label is -1 for
    every classification: such a sample counts nowhere. One with a label that no task knows counts as wrong in the
    joint accuracy. ``owner`` [N] is the index of the one task that a sample belongs to, -1 for none; it is None where
    there is no joint accuracy, because there are fewer than two classifications or a sample belongs to several.
    """

    answers: tuple[NDArray[Any], ...]
    labelled: NDArray[np.bool_]
    owner: NDArray[np.int64] | None

    @property
    def samples(self) -> int:
        return len(self.labelled)

    def at(self, places: NDArray[Any]) -> Truth:
        """The right answers of some of the samples: places [n], or bool [N]."""
        answers = tuple(each[places] for each in self.answers)
        return Truth(answers, self.labelled[places], None if self.owner is None else self.owner[places])

    def require_each(self, tasks: Sequence[Task], origin: str, samples: str = "samples") -> None:
        """Raise InputError where no sample has a label or target of one of ``tasks``."""
        for task, answers in zip(tasks, self.answers, strict=True):
            known = ~np.isnan(answers) if task.kind == "regression" else answers != ABSENT
            if not known.any(axis=0).all():
                raise InputError(f"{origin}: none of the {self.samples} {samples} has a label of task {task.name!r}")


def truth(tasks: Sequence[Task], labels: Labels) -> Truth:
    """The right answers to ``tasks``.

    Raises:
        InputError: labels are not whole numbers of -1 or more, or a task has no sample.

    """
    answers: list[NDArray[Any]] = []
    labelled: NDArray[np.bool_] | bool = False
    for task in tasks:
        picked = labels.pick(task)
        if task.kind == "regression":
            answers.append(_targets(picked, task, labels.origin))
        else:
            numbers = _labels(picked, task, labels.origin)
            labelled = labelled | (numbers != ABSENT)
            answers.append(task.rows(numbers))
    found = Truth(tuple(answers), np.broadcast_to(labelled, len(answers[0])), _owner(tasks, answers))
    found.require_each(tasks, labels.origin)
    return found


def _owner(tasks: Sequence[Task], answers: Sequence[NDArray[Any]]) -> NDArray[np.int64] | None:
    asked = [index for index, task in enumerate(tasks) if task.kind == "classification"]
    member = np.array([answers[index] != ABSENT for index in asked])
    if len(asked) < 2 or (member.sum(axis=0) > 1).any():
        return None
    owner: NDArray[np.int64] = np.where(member.any(axis=0), np.array(asked)[member.argmax(axis=0)], ABSENT)
    return owner


def _targets(picked: NDArray[np.float64], task: Task, origin: str) -> NDArray[np.float64]:
    wrong = np.flatnonzero(np.isinf(picked).any(axis=1))
    if wrong.size:
        raise InputError(
            f"{origin}: sample {wrong[0]} has an infinite target for task {task.name!r}; give numbers, or nan where "
            "there is none"
        )
    return picked


def _labels(picked: NDArray[np.float64], task: Task, origin: str) -> NDArray[np.int64]:
    if picked.shape[1] != 1:
        raise InputError(
            f"{origin}: {picked.shape[1]} numbers for each sample, task {task.name!r} expects one label; name its "
            "target, or make it a regression"
        )
    numbers = picked[:, 0]
    wrong = np.flatnonzero(~((numbers >= ABSENT) & (numbers < _MOST) & (numbers == np.round(numbers))))
    if wrong.size:
        raise InputError(
            f"{origin}: sample {wrong[0]} has label {numbers[wrong[0]]:g}, task {task.name!r} expects whole numbers of "
            "-1 or more, below 2**31; a regression of numbers is asked for with --regression or in the task file"
        )
    return numbers.astype(np.int64)
