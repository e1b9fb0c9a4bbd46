"""Tasks that an embedding is compared with, and the task.json files that hold them.

    {"name": ..., "input": "images", "output": "embedding", "kind": "classes" | "relabel",
     "models": [{"file": "a.onnx", "task": 0}, ...],
     "tasks": [{"name": ..., "classes": [0, 1, 2], "vectors": [[...], [...], [...]]}, ...]}

With kind "classes" every task has its own labels, and ``vectors`` one row for each of its ``classes``. With "relabel"
all tasks judge the same samples, each in its own way: ``label_of`` gives the row for every label. ``models`` may be
absent (then a.onnx answers for the first task, b.onnx for the second, ...), and other keys are ignored.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import InputError

KINDS = ("classes", "relabel")


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Vectors [rows, width], and the row that is right for each label.

    ``row_of`` maps a label to its row of ``vectors``; a sample whose label is not in it is not of this task.
    """

    name: str
    vectors: NDArray[np.float32]
    row_of: Mapping[int, int]

    def rows(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The right row for each of ``labels`` [N]; -1 for those of other tasks."""
        return np.array([self.row_of.get(int(label), -1) for label in labels], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class TaskFile:
    """The contents of a task.json: tasks, and the models (absolute path, index of the task) that learned them."""

    name: str
    input: str
    output: str
    kind: str
    tasks: tuple[Task, ...]
    models: tuple[tuple[Path, int], ...]

    @property
    def disjoint(self) -> bool:
        """Whether every label belongs to one task, so that a joint accuracy over all classes means something."""
        return self.kind == "classes"


def read_tasks(path: Path | str) -> TaskFile:
    """Read a task.json or pair.json; InputError names the file and the entry that is missing or wrong."""
    path = Path(path).absolute()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON file: {error}") from error
    try:
        return _task_file(path, content)
    except KeyError as error:
        raise InputError(f"{path}: entry {error} is missing") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"{path}: not a task file: {error}") from error


def _task_file(path: Path, content: Mapping[str, Any]) -> TaskFile:
    kind = content["kind"]
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    tasks = tuple(_task(entry, kind) for entry in content["tasks"])
    if not tasks:
        raise ValueError("it has no tasks")
    if len({task.vectors.shape[1] for task in tasks}) > 1:
        raise ValueError("vectors of different tasks have different widths")
    if kind == "classes" and len({label for task in tasks for label in task.row_of}) < sum(
        len(t.row_of) for t in tasks
    ):
        raise ValueError("a class belongs to two tasks; with kind 'classes' each belongs to one")
    models = content.get("models") or [
        {"file": f"{letter}.onnx", "task": index} for index, letter in enumerate(string.ascii_lowercase[: len(tasks)])
    ]
    for model in models:
        if not 0 <= model["task"] < len(tasks):
            raise ValueError(f"model {model['file']} names task {model['task']}, expected 0 to {len(tasks) - 1}")
    return TaskFile(
        name=str(content["name"]),
        input=str(content["input"]),
        output=str(content["output"]),
        kind=kind,
        tasks=tasks,
        models=tuple((path.parent / model["file"], int(model["task"])) for model in models),
    )


def _task(entry: Mapping[str, Any], kind: str) -> Task:
    name = str(entry["name"])
    vectors = np.asarray(entry["vectors"], np.float32)
    if vectors.ndim != 2:
        raise ValueError(f"vectors of task {name!r} have shape {vectors.shape}, expected [classes, width]")
    if kind == "classes":
        row_of = {int(label): row for row, label in enumerate(entry["classes"])}
        if len(row_of) != len(vectors):
            raise ValueError(
                f"task {name!r} has {len(vectors)} vectors, expected one for each of its {len(row_of)} classes"
            )
    else:
        row_of = {label: int(row) for label, row in enumerate(entry["label_of"])}
        if not all(0 <= row < len(vectors) for row in row_of.values()):
            raise ValueError(f"label_of of task {name!r} has rows beyond its {len(vectors)} vectors")
    return Task(name, vectors, row_of)
