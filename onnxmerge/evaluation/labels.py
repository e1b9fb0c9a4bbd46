"""Label files: one label or target for each sample, in the order of the data.

A .npy file, a .npz file of named arrays, a .csv or .txt file (a line for each sample, with or without a header), or a
folder of images in one folder for each class. Labels are whole numbers, -1 where a sample is not of a task; targets of
a regression are numbers, and nan or an empty cell where there is none.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.calibration.images import IMAGE_SUFFIXES
from onnxmerge.errors import InputError
from onnxmerge.evaluation.arrays import read_arrays
from onnxmerge.evaluation.task import Task
from onnxmerge.files import is_folder, named, read_text
from onnxmerge.memory import require_room
from onnxmerge.text import clamped, reason

_WHOLE = re.compile(r"-?[0-9]{1,9}")
"""Names of class folders that number the classes themselves."""

_BYTES_OF_A_CHARACTER = 32
"""Memory for each character of a table of short numbers, about."""

LabelSpec = str | Path | NDArray[Any] | Mapping[str, NDArray[Any]]

USUAL = ("labels", "label", "targets", "target", "y")
"""Names under which labels are looked for where no name is given."""


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Named arrays [N] or [N, columns]: numbers, or the cells of a text file. ``origin`` names them in messages."""

    origin: str
    columns: Mapping[str, NDArray[Any]]

    def pick(self, task: Task) -> NDArray[np.float64]:
        """What a task is to be compared with, [N, columns].

        That is what its ``target`` names; else what is called as the task is; else what there is, if there is one
        array only or one under a usual name.

        Raises:
            InputError: there is no such array, the choice is not clear, or it holds no numbers.

        """
        names = task.target or (self._name(task),)
        for name in names:
            if name not in self.columns:
                raise InputError(f"{self.origin}: has no {name!r} for task {task.name!r}; found {self._found()}")
        parts = [_numbers(self.columns[name], f"{self.origin}: {name!r}") for name in names]
        return np.concatenate(parts, axis=1)

    def _name(self, task: Task) -> str:
        if task.name in self.columns:
            return task.name
        usual = [name for name in self.columns if name.lower() in USUAL]
        candidates = list(self.columns) if len(self.columns) == 1 else usual
        if len(candidates) != 1:
            raise InputError(
                f"{self.origin}: holds {self._found()}; say in the task file which is the target of task {task.name!r}"
            )
        return candidates[0]

    def _found(self) -> str:
        return ", ".join(map(repr, self.columns)) or "nothing"


def read_labels(spec: LabelSpec) -> Labels:
    """Labels from a file, a folder of class folders, an array, or arrays by name.

    Raises:
        InputError: it cannot be read as labels; the message names the file and the line.

    """
    if isinstance(spec, np.ndarray):
        found, origin = {"labels": spec}, "the labels"
    elif isinstance(spec, Mapping):
        found, origin = {str(name): np.asarray(array) for name, array in spec.items()}, "the labels"
    else:
        found, origin = _read(Path(spec)), named(spec)
    counts = {name: len(array) if array.ndim else 0 for name, array in found.items()}
    if len(set(counts.values())) != 1 or not all(counts.values()):
        raise InputError(f"{origin}: a label for each sample is expected, found {counts or 'nothing'}")
    return Labels(origin, found)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if is_folder(path):
        return {"labels": folder_labels(path)}
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".csv", ".txt"):
        raise InputError(f"{named(path)}: labels are a .npy, .npz, .csv or .txt file, or a folder of class folders")
    if suffix in (".npy", ".npz"):
        arrays = read_arrays(path, "labels")
        return _of_one_length(arrays) if suffix == ".npz" else {"labels": arrays[path.stem]}
    try:
        return _read_text(path)
    except (ValueError, csv.Error) as error:
        raise InputError(f"{named(path)}: cannot be read as labels: {reason(error)}") from error


def _of_one_length(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Labels, without the inputs that may lie in the same file: those of a usual name, where lengths differ."""
    if len({len(array) for array in arrays.values()}) < 2:
        return arrays
    return {name: array for name, array in arrays.items() if name.lower() in USUAL} or arrays


def folder_labels(folder: Path) -> NDArray[np.int64]:
    """The class of each image below a folder, in the order in which images are read as data.

    Classes are the folders just below, numbered in order of name; where all their names are whole numbers, these.
    """
    files = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file()
    )
    loose = [path for path in files if path.parent == folder]
    if loose or not files:
        raise InputError(f"{loose[0] if loose else folder}: images in one folder for each class are expected")
    names = [path.relative_to(folder).parts[0] for path in files]
    classes = sorted(set(names))
    whole = all(_WHOLE.fullmatch(name) for name in classes)
    number = {name: int(name) if whole else index for index, name in enumerate(classes)}
    return np.array([number[name] for name in names], np.int64)


def _read_text(path: Path) -> dict[str, NDArray[Any]]:
    text = read_text(path, "a label file").rstrip()
    require_room(len(text) * _BYTES_OF_A_CHARACTER, f"{named(path)}, read as a table,")
    lines = text.splitlines()
    comma = path.suffix.lower() == ".csv"
    rows = list(csv.reader(lines, skipinitialspace=True, strict=True)) if comma else [line.split() for line in lines]
    if not rows:
        raise ValueError("it is empty")
    header = not any(_is_number(cell) for cell in rows[0])
    for line, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise ValueError(f"line {line} has {len(row)} cells, the first has {len(rows[0])}")
    cells = np.array(rows[header:], dtype=object).reshape(len(rows) - header, len(rows[0]))
    if not header:
        return {"labels": cells}
    return {name.strip(): cells[:, index] for index, name in enumerate(rows[0])}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(array: NDArray[Any], origin: str) -> NDArray[np.float64]:
    if array.ndim not in (1, 2):
        raise InputError(f"{origin} has shape {list(array.shape)}, expected [N] or [N, columns]")
    column = array.reshape(len(array), -1)
    if array.dtype.kind not in "iufbUO":
        raise InputError(f"{origin} holds {clamped(str(array.dtype), 40)}, expected numbers")
    try:
        if array.dtype.kind in "UO":
            column = np.where(np.vectorize(_is_empty, otypes=[bool])(column), "nan", column)
        return column.astype(np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{origin} holds what is no number: {reason(error)}") from error


def _is_empty(cell: object) -> bool:
    return isinstance(cell, str) and not cell.strip()
