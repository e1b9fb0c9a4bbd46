"""Task files: JSON or YAML descriptions of tasks, and of the models that learned them.

    {"name": ..., "output": "embedding", "kind": "classes" | "relabel",
     "models": [{"file": "a.onnx", "task": 0}, ...],
     "tasks": [{"name": ..., "classes": [0, 1, 2], "vectors": [[...], [...], [...]]}, ...]}

A task has ``classes`` (its labels, in the order of its rows), or ``label_of`` (the row for every label: another
labelling of the same samples), or neither (labels are rows), or is a regression (``regression: true``). Its other
entries are those of `Task`. ``kind`` says that all tasks are of the first sort, with classes of their own, or all of
the second; it may be absent. ``models`` may be absent too (then a.onnx learned the first task, b.onnx the second, ...).
Other keys are ignored.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from onnxmerge.documents import read_json, read_yaml
from onnxmerge.errors import InputError
from onnxmerge.evaluation.task import Loss, Task
from onnxmerge.evaluation.vectors import finite, read_vectors
from onnxmerge.files import named
from onnxmerge.text import reason, shown

_MOST = 1 << 24
"""More rows, labels or columns than a task has."""

KINDS = ("classes", "relabel")


@dataclass(frozen=True, slots=True, eq=False)
class TaskFile:
    """Tasks, and the models (absolute path, index of the task) that learned them.

    ``input`` names the models' input where the file says so.
    """

    name: str
    input: str | None
    kind: str | None
    tasks: tuple[Task, ...]
    models: tuple[tuple[Path, int], ...]


def read_tasks(path: Path | str) -> TaskFile:
    """Read a task file (task.json, pair.json, .yaml); InputError names the file and the entry that is wrong."""
    path = Path(path).absolute()
    read = read_yaml if path.suffix.lower() in (".yaml", ".yml") else read_json
    content = read(path, "a task file")
    try:
        return _task_file(path, content)
    except KeyError as error:
        raise InputError(f"{named(path)}: entry {reason(error)} is missing") from error
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{named(path)}: not a task file: {reason(error)}") from error


def _task_file(path: Path, content: Any) -> TaskFile:
    if not isinstance(content, Mapping):
        raise ValueError(f"a mapping with 'tasks' is expected, found {shown(content)}")  # noqa: TRY004 - the same error
    kind = content.get("kind")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {shown(kind)}, expected one of {', '.join(KINDS)}")
    tasks = tuple(_task(entry, kind, content.get("output"), path.parent) for entry in content["tasks"])
    if not tasks:
        raise ValueError("it has no tasks")
    if len({task.name for task in tasks}) < len(tasks):
        raise ValueError("two tasks have one name")
    labels = [label for task in tasks for label in task.row_of or ()]
    if kind == "classes" and len(set(labels)) < len(labels):
        raise ValueError("a class belongs to two tasks; with kind 'classes' each belongs to one")
    models = content.get("models") or [
        {"file": f"{letter}.onnx", "task": index} for index, letter in enumerate(string.ascii_lowercase[: len(tasks)])
    ]
    for model in models:
        if not 0 <= model["task"] < len(tasks):
            raise ValueError(
                f"model {shown(model['file'])} names task {shown(model['task'])}, expected 0 to {len(tasks) - 1}"
            )
    return TaskFile(
        name=str(content.get("name", path.stem)),
        input=content.get("input"),
        kind=kind,
        tasks=tasks,
        models=tuple((path.parent / model["file"], int(model["task"])) for model in models),
    )


def _task(entry: Mapping[str, Any], kind: str | None, output: str | None, folder: Path) -> Task:
    name = str(entry["name"])
    required = {"classes": "classes", "relabel": "label_of"}.get(kind or "")
    if required is not None and required not in entry:
        raise KeyError(required)
    loss = entry.get("loss", "squared")
    if loss not in get_args(Loss):
        raise ValueError(f"loss of task {shown(name)} is {shown(loss)}, expected one of {', '.join(get_args(Loss))}")
    columns, threshold = entry.get("columns"), entry.get("threshold")
    task = Task(
        name,
        kind="regression" if entry.get("regression") else "classification",
        row_of=_row_of(entry),
        vectors=_vectors(entry, folder),
        output=entry.get("output", output),
        columns=None if columns is None else tuple(int(column) for column in columns),
        threshold=None if threshold is None else float(threshold),
        target=_names(entry.get("target")),
        loss=loss,
    )
    _check(task)
    return task


def _names(target: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if target is None:
        return None
    return (target,) if isinstance(target, str) else tuple(map(str, target))


def _row_of(entry: Mapping[str, Any]) -> dict[int, int] | None:
    if "classes" in entry:
        return {int(label): row for row, label in enumerate(entry["classes"])}
    if "label_of" in entry:
        return {label: int(row) for label, row in enumerate(entry["label_of"])}
    return None


def _vectors(entry: Mapping[str, Any], folder: Path) -> Any:
    found = entry.get("vectors")
    if found is None:
        return None
    return read_vectors(folder / found) if isinstance(found, str) else finite(np.asarray(found, np.float32))


def _check(task: Task) -> None:
    """Whether the entries of a task fit together."""
    if task.kind == "regression" and (task.row_of or task.vectors is not None or task.threshold is not None):
        raise ValueError(f"task {task.name!r} is a regression; classes, label_of, vectors and threshold do not apply")
    if task.columns is not None and not (task.columns and 0 <= min(task.columns) <= max(task.columns) < _MOST):
        raise ValueError(f"columns of task {shown(task.name)} are {shown(list(task.columns))}, expected numbers from 0")
    if task.vectors is not None and task.vectors.ndim != 2:
        raise ValueError(f"vectors of task {task.name!r} have shape {task.vectors.shape}, expected [classes, width]")
    if task.row_of is None:
        return
    numbers = [*task.row_of, *task.row_of.values()]
    if not numbers or not 0 <= min(numbers) <= max(numbers) < _MOST:
        raise ValueError(f"task {shown(task.name)} has no classes, or negative ones, or huge ones; labels count from 0")
    rows, given = max(task.row_of.values()) + 1, task.classes
    every_row = len(set(task.row_of.values())) == len(task.row_of)
    if given is not None and (rows > given or (every_row and rows < given)):
        what = "vectors" if task.vectors is not None else "columns"
        raise ValueError(f"task {task.name!r} has {given} {what}, expected one for each of its {rows} classes")
