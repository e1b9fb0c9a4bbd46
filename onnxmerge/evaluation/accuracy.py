"""Accuracy of embeddings on the tasks of the parents: within each task, their mean, and over all classes at once.

The measures of MuDSC (Xu et al., CVPR 2024, 2403.01753): an embedding belongs to the class whose vector is nearest by
cosine. *Joint* compares with the classes of all tasks. The ensemble, in which each task is answered by its own parent,
is the bound that a merged model approaches; its parents' cosines are made comparable by a softmax of temperature 0.01.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.evaluation.task import Task

TEMPERATURE = 0.01

Embeddings = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracies from 0 to 1. ``tasks`` are T.A, T.B, ... in the order of the tasks.

    ``joint`` is the accuracy over the classes of all tasks, None where tasks are labellings of the same samples.
    """

    tasks: tuple[float, ...]
    joint: float | None

    @property
    def average(self) -> float:
        """Avg, the mean over tasks."""
        return sum(self.tasks) / len(self.tasks)


def score(embeddings: Embeddings, labels: NDArray[np.integer], tasks: Sequence[Task], *, disjoint: bool) -> Scores:
    """Scores of one model.

    ``embeddings`` [N, width] are its outputs (of any length) on samples with ``labels`` [N]. ``disjoint`` says that
    no label belongs to two tasks, so that there is a joint accuracy. Raises InputError when shapes do not fit, or a
    task has no sample.
    """
    return _scores([cosines(embeddings, task) for task in tasks], labels, tasks, disjoint=disjoint)


def score_ensemble(
    embeddings: Sequence[Embeddings], labels: NDArray[np.integer], tasks: Sequence[Task], *, disjoint: bool
) -> Scores:
    """Scores of the parents together: ``embeddings[t]`` [N, width] are those of the parent that learned task ``t``."""
    if len(embeddings) != len(tasks):
        raise InputError(f"the ensemble has {len(embeddings)} embeddings, expected one for each of {len(tasks)} tasks")
    similarities = [cosines(output, task) for output, task in zip(embeddings, tasks, strict=True)]
    return _scores([_log_softmax(values / TEMPERATURE) for values in similarities], labels, tasks, disjoint=disjoint)


def cosines(embeddings: Embeddings, task: Task) -> NDArray[np.float64]:
    """Cosine [N, rows] of each embedding [N, width] with each vector of ``task``; 0 for an embedding of zeros."""
    width = task.vectors.shape[1]
    if embeddings.ndim != 2 or embeddings.shape[1] != width:
        raise InputError(f"embeddings have shape {embeddings.shape}, expected [N, {width}] for task {task.name!r}")
    return _unit(embeddings) @ _unit(task.vectors).T


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    lengths: NDArray[np.float64] = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths > 0, lengths, 1.0)


def _log_softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """In the logarithm, because at this temperature many probabilities are 1 to machine precision: ties by rounding."""
    shifted: NDArray[np.float64] = values - values.max(axis=1, keepdims=True)
    others = np.exp(shifted)
    others[np.arange(len(values)), values.argmax(axis=1)] = 0
    # log(1 + rest) with the largest term left out of the sum keeps what is far below 1.
    logarithms: NDArray[np.float64] = shifted - np.log1p(others.sum(axis=1, keepdims=True))
    return logarithms


def _scores(
    logits: Sequence[NDArray[np.float64]], labels: NDArray[np.integer], tasks: Sequence[Task], *, disjoint: bool
) -> Scores:
    if labels.shape != (len(logits[0]),):
        raise InputError(f"labels have shape {labels.shape}, expected [{len(logits[0])}], one for each embedding")
    rows = [task.rows(labels.astype(np.int64)) for task in tasks]
    accuracies = []
    for task, values, right in zip(tasks, logits, rows, strict=True):
        mine = right >= 0
        if not mine.any():
            raise InputError(f"none of the {len(labels)} samples has a label of task {task.name!r}")
        accuracies.append(float((values[mine].argmax(axis=1) == right[mine]).mean()))
    return Scores(tuple(accuracies), _joint(logits, rows) if disjoint else None)


def _joint(logits: Sequence[NDArray[np.float64]], rows: Sequence[NDArray[np.int64]]) -> float:
    """The share of samples whose right row is the largest of all tasks' rows; labels of no task count as wrong."""
    starts = np.cumsum([0, *(values.shape[1] for values in logits[:-1])])
    right = np.full(len(logits[0]), -1, np.int64)
    for start, mine in zip(starts, rows, strict=True):
        right[mine >= 0] = start + mine[mine >= 0]
    return float((np.concatenate(logits, axis=1).argmax(axis=1) == right).mean())
