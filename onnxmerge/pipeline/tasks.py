"""What is asked of models: tasks from a file or as they stand, with class vectors, and which parent learned which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from onnxmerge.calibration.sources import SourceSpec
from onnxmerge.errors import UsageError
from onnxmerge.evaluation.labels import LabelSpec
from onnxmerge.evaluation.task import Task
from onnxmerge.evaluation.task_file import TaskFile, read_tasks
from onnxmerge.evaluation.vectors import with_vectors
from onnxmerge.pipeline.prepare import ModelSource

TaskSpec = str | Path | TaskFile | Sequence[Task]
"""A task file, read or not, or tasks."""

Listed = Sequence[tuple[Path, int]]
"""Which models learned which task (its index), as a task file says."""


def tasks_of(spec: TaskSpec | None, vectors: str | Path | None, otherwise: Task) -> tuple[tuple[Task, ...], Listed]:
    """The tasks, with class ``vectors`` from a file; ``otherwise`` is the only one where no ``spec`` names any.

    Raises:
        InputError: a file cannot be read, or vectors do not fit the tasks.
        UsageError: there is no task, two have one name, or ``vectors`` have no use.

    """
    if isinstance(spec, str | Path):
        spec = read_tasks(spec)
    listed = spec.models if isinstance(spec, TaskFile) else ()
    tasks = (otherwise,) if spec is None else spec.tasks if isinstance(spec, TaskFile) else tuple(spec)
    if not tasks or len({task.name for task in tasks}) < len(tasks):
        raise UsageError(f"tasks need names of their own, found {[task.name for task in tasks]}")
    if vectors is None:
        return tasks, listed
    if any(task.kind == "regression" or task.vectors is not None for task in tasks):
        raise UsageError(
            "class vectors (--vectors) are for classifications that have none yet; these tasks have no use"
        )
    return with_vectors(tasks, vectors), listed


def tasks_learned(parents: Sequence[ModelSource], tasks: Sequence[Task], listed: Listed) -> list[tuple[int, ...]]:
    """The tasks that each parent learned.

    As a task file lists them, if it lists all of the parents; otherwise all learned the only task, or each the next.
    Raises UsageError where there are as many parents as tasks neither way.
    """
    known: dict[Path, list[int]] = {}
    for path, task in listed:
        known.setdefault(path.resolve(), []).append(task)
    paths = [Path(parent).resolve() if isinstance(parent, str | os.PathLike) else None for parent in parents]
    if all(path in known for path in paths):
        return [tuple(known[path]) for path in paths if path is not None]
    if len(tasks) == 1:
        return [(0,) for _ in parents]
    if len(parents) != len(tasks):
        raise UsageError(
            f"{len(parents)} parents and {len(tasks)} tasks: give one parent for each task, in order, or list under "
            "'models' of the task file which model learned which task"
        )
    return [(index,) for index in range(len(tasks))]


def require_own_folder(labels: LabelSpec, data: SourceSpec) -> None:
    """Raise UsageError where ``labels`` are the class folders of other images than those of ``data``."""
    if not isinstance(labels, str | Path) or not Path(labels).is_dir():
        return
    if not isinstance(data, str | Path) or Path(labels).resolve() != Path(data).resolve():
        raise UsageError(f"labels from the folder {labels} are those of its own images: give it as the data too")
