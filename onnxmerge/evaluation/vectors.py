"""Class vectors: what a text encoder makes of the names of classes, as arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxmerge.calibration.chunks import naming
from onnxmerge.errors import InputError
from onnxmerge.evaluation.arrays import read_arrays
from onnxmerge.evaluation.task import Task
from onnxmerge.text import shown

Vectors = NDArray[np.float32]


def read_vectors(path: Path) -> Vectors:
    """One array of class vectors [classes, width]; InputError where the file holds something else."""
    found = _arrays(path)
    if len(found) != 1:
        raise InputError(f"{path}: holds {', '.join(found) or 'nothing'}; one array [classes, width] is expected")
    return next(iter(found.values()))


def with_vectors(tasks: tuple[Task, ...], path: Path | str) -> tuple[Task, ...]:
    """The tasks with class vectors from a file.

    A .npz with an array of the name of each task holds a vector for each of its classes in order; any other file, one
    array with a vector for every label.

    Raises:
        InputError: the file cannot be read, or has no vectors for a task, or a class of it.

    """
    path = Path(path)
    found = _arrays(path)
    if all(task.name in found for task in tasks):
        return tuple(_with(task, found[task.name], path) for task in tasks)
    vectors = read_vectors(path)
    return tuple(_with(task, vectors[_labels(task, len(vectors), path)], path) for task in tasks)


def _with(task: Task, vectors: Vectors, path: Path) -> Task:
    rows = task.classes
    if rows is not None and rows != len(vectors):
        raise InputError(f"{path}: has {len(vectors)} vectors for the {rows} classes of task {task.name!r}")
    return replace(task, vectors=vectors)


def _labels(task: Task, count: int, path: Path) -> list[int]:
    """The label of each row of a task."""
    if task.row_of is None:
        return list(range(count))
    labels = {row: label for label, row in task.row_of.items()}
    if len(labels) < len(task.row_of) or max(labels.values()) >= count:
        raise InputError(f"{path}: holds {count} vectors, which do not belong to the classes of task {task.name!r}")
    return [labels[row] for row in range(len(labels))]


def _arrays(path: Path) -> dict[str, Vectors]:
    arrays = read_arrays(path, "class vectors")
    for name, array in arrays.items():
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise InputError(
                f"{path}: {shown(name)} is {array.dtype}{shown(list(array.shape))}, expected numbers [classes, width]"
            )
    with naming(path, "class vectors"):
        return {name: finite(array.astype(np.float32)) for name, array in arrays.items()}


def finite(vectors: Vectors) -> Vectors:
    """The vectors. Raises ValueError where one has no direction: values that are not finite, or nothing but zeros."""
    if not np.isfinite(vectors).all() or (vectors.ndim == 2 and not vectors.any(axis=1).all()):
        raise ValueError("a class vector is zero, or holds NaN or an infinity; each is to be a direction")
    return vectors
