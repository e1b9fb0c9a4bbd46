"""From the outputs of a model to answers: a score for each class, or a prediction for each column.

Scores that stand in one output of one model are compared with one another as they are. Scores from different outputs
or models have no common scale; the logarithms of softmax probabilities do (cosines at temperature 0.01, as in MuDSC).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.evaluation.scorer import Sureness
from onnxmerge.evaluation.task import Task
from onnxmerge.merging.answer.ensemble import COSINE_TEMPERATURE
from onnxmerge.merging.answer.meaning import Meaning
from onnxmerge.merging.closed_form.consensus import unit

TEMPERATURE = 0.01
"""Of the softmax over cosines."""

LEAST = 1e-300
"""The smallest probability whose logarithm is taken."""

Scores = NDArray[np.float64]


def answer(task: Task, output: NDArray[Any], origin: str) -> Scores:
    """The scores [N, rows] or predictions [N, columns] of an output for a task.

    ``output`` is [N, width]; axes of length 1 behind these do not matter, and [N] is one column. ``origin`` names it
    in messages.

    Raises:
        InputError: shape or type are not what the task needs.

    """
    values = _matrix(output, origin)
    if task.vectors is not None:
        return cosines(values, task.vectors, f"{origin}, task {task.name!r}")
    if task.threshold is not None:
        if values.shape[1] != 1:
            raise InputError(
                f"{origin}: has {values.shape[1]} columns; the threshold of task {task.name!r} is for an output of one"
            )
        return np.concatenate([np.full_like(values, task.threshold), values], axis=1)
    columns = _columns(task, values.shape[1], origin)
    return values if columns is None else values[:, columns]


def cosines(embeddings: NDArray[Any], vectors: NDArray[Any], origin: str) -> Scores:
    """Cosine [N, rows] of each embedding [N, width] with each vector [rows, width]; 0 for an embedding of zeros."""
    if embeddings.ndim != 2 or embeddings.shape[1] != vectors.shape[1]:
        raise InputError(
            f"{origin}: has shape {list(embeddings.shape)}, expected [N, {vectors.shape[1]}] as the vectors"
        )
    return unit(embeddings.astype(np.float64)) @ unit(vectors.astype(np.float64)).T


def logits(task: Task, scores: Scores, meaning: Meaning | None, *, cosines_at: float = TEMPERATURE) -> Scores:
    """Values [N, rows] whose softmax are the probabilities that scores stand for, by what the output means.

    Logits are such values. Of probabilities they are the logarithms: those of a task's classes add up to 1 among each
    other. Cosines are divided by a temperature. At a threshold both classes are equally probable.
    """
    if task.vectors is not None:
        return scores / cosines_at
    if meaning != "probabilities":
        return scores
    if task.threshold is None:
        return np.log(np.maximum(scores, LEAST))
    odds = scipy.special.logit(np.clip(scores.astype(np.float64), LEAST, 1 - np.finfo(np.float64).eps))
    return np.asarray(odds - odds[:, :1])


def log_probabilities(values: Scores) -> Scores:
    """Logarithms of the softmax of `logits` [N, rows].

    In the logarithm, because at a low temperature many probabilities are 1 to machine precision: ties by rounding.
    """
    with np.errstate(invalid="ignore"):  # of infinite values, which only say nan
        shifted: Scores = values - values.max(axis=1, keepdims=True)
        others = np.exp(shifted)
        others[np.arange(len(values)), values.argmax(axis=1)] = 0
        # log(1 + rest) with the largest term left out of the sum keeps what is far below 1.
        found: Scores = shifted - np.log1p(others.sum(axis=1, keepdims=True))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a model answers to a batch.

    For each task ``given`` has scores [N, rows] or predictions [N, columns], None for no answer; ``meanings`` what its
    output means (not asked of regressions), and ``outputs`` that output's name.
    """

    given: Sequence[Scores | None]
    meanings: Sequence[Meaning | None]
    outputs: Sequence[str | None]

    def logits(self, tasks: Sequence[Task], cosines_at: float) -> list[Scores | None]:
        """The `logits` of classifications; None elsewhere."""
        return [
            None if scores is None or meaning is None else logits(task, scores, meaning, cosines_at=cosines_at)
            for task, scores, meaning in zip(tasks, self.given, self.meanings, strict=True)
        ]

    @property
    def apart(self) -> bool:
        """Whether classifications have different outputs, so that their scores have no common scale."""
        pairs = zip(self.outputs, self.meanings, strict=True)
        return len({output for output, meaning in pairs if meaning is not None}) > 1


def on_one_scale(tasks: Sequence[Task], answers: Answers) -> list[Scores | None]:
    """The answers, classifications comparable across tasks: as probabilities unless one output answers all."""
    values = answers.logits(tasks, TEMPERATURE)
    return _probabilities(answers.given, values) if answers.apart else list(answers.given)


def sureness(tasks: Sequence[Task], answers: Answers) -> Sureness:
    """How sure a model is of its classifications; by cosines at the temperature that the tool merges with."""
    values = answers.logits(tasks, COSINE_TEMPERATURE)
    return Sureness(_probabilities(values, values) if answers.apart else values, apart=answers.apart)


def _probabilities(plain: Sequence[Scores | None], values: Sequence[Scores | None]) -> list[Scores | None]:
    """What is ``plain``, but logarithms of probabilities where there are ``values`` for them."""
    return [own if value is None else log_probabilities(value) for own, value in zip(plain, values, strict=True)]


def _matrix(output: Any, origin: str) -> Scores:
    if not isinstance(output, np.ndarray) or output.dtype.kind in "OSU":
        raise InputError(f"{origin}: is no tensor of numbers; choose another output for the task")
    if output.ndim == 0 or any(size != 1 for size in output.shape[2:]):
        raise InputError(f"{origin}: has shape {list(output.shape)}, expected [N, width]")
    return output.reshape(len(output), -1).astype(np.float64)


def _columns(task: Task, width: int, origin: str) -> list[int] | None:
    """Which columns are the task's; None for all of them in their order.

    An output that is as wide as the task has classes has one column for each, in order. A wider one holds the classes
    of other tasks too, and a label is the number of its column.
    """
    if width == 1 and task.kind == "classification" and task.columns is None:
        raise InputError(f"{origin}: has one column, which tells no classes apart; give task {task.name!r} a threshold")
    columns = list(task.columns) if task.columns is not None else None
    if columns is None and task.row_of is not None and task.classes != width:
        labels = {row: label for label, row in task.row_of.items()}
        columns = [labels[row] for row in range(len(labels))] if len(labels) == len(task.row_of) else []
        if not columns or max(columns) >= width:
            raise InputError(
                f"{origin}: has {width} columns, task {task.name!r} has {task.classes} classes; name its columns"
            )
    if columns is not None and max(columns) >= width:
        raise InputError(f"{origin}: has {width} columns; task {task.name!r} asks for column {max(columns)}")
    return columns
