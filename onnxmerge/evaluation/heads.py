"""From the outputs of a model to answers: a score for each class, or a prediction for each column.

Scores that stand in one output of one model are compared with one another as they are. Scores from different outputs
or models have no common scale; the logarithms of softmax probabilities do (cosines at temperature 0.01, as in MuDSC).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.evaluation.task import Task

TEMPERATURE = 0.01
"""Of the softmax over cosines."""

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
    return _unit(embeddings) @ _unit(vectors).T


def log_probabilities(task: Task, scores: Scores) -> Scores:
    """Logarithms of softmax probabilities [N, rows] of the scores of a task.

    In the logarithm, because at a low temperature many probabilities are 1 to machine precision: ties by rounding.
    """
    values = scores / TEMPERATURE if task.vectors is not None else scores
    shifted: Scores = values - values.max(axis=1, keepdims=True)
    others = np.exp(shifted)
    others[np.arange(len(values)), values.argmax(axis=1)] = 0
    # log(1 + rest) with the largest term left out of the sum keeps what is far below 1.
    logarithms: Scores = shifted - np.log1p(others.sum(axis=1, keepdims=True))
    return logarithms


def on_one_scale(
    tasks: Sequence[Task], answers: Sequence[Scores | None], sources: Sequence[object]
) -> list[Scores | None]:
    """The answers, classifications comparable across tasks: as probabilities unless all have one of ``sources``."""
    asked = {source for task, source in zip(tasks, sources, strict=True) if task.kind == "classification"}
    if len(asked) < 2:
        return list(answers)
    return [
        log_probabilities(task, found) if found is not None and task.kind == "classification" else found
        for task, found in zip(tasks, answers, strict=True)
    ]


def _unit(vectors: NDArray[Any]) -> Scores:
    wide = vectors.astype(np.float64)
    lengths: Scores = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths > 0, lengths, 1.0)


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
