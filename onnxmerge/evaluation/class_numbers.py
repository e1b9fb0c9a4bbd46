"""Labels of calibration samples, a class each, and the accuracy of a classifier on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import InputError

Labels: TypeAlias = NDArray[np.int64]
LabelSource: TypeAlias = str | Path | NDArray[Any]


def read_labels(source: LabelSource, samples: int) -> Labels:
    """The class of each of ``samples`` calibration samples, from a .npy file, or an .npz with one array or `labels`.

    Raises InputError where that cannot be read or is not one whole number from 0 for each sample.
    """
    origin = "labels" if isinstance(source, np.ndarray) else str(source)
    array = source if isinstance(source, np.ndarray) else _read(Path(source))
    if array.dtype.kind not in "iu" or array.shape != (samples,):
        raise InputError(
            f"{origin}: found {array.dtype} {list(array.shape)}, expected a class number for each of the {samples} "
            "calibration samples in use"
        )
    labels = array.astype(np.int64)
    if labels.min(initial=0) < 0:
        raise InputError(f"{origin}: found class {labels.min()}; classes count from 0")
    return labels


def _read(path: Path) -> NDArray[Any]:
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            name = "labels" if "labels" in found.files else "".join(found.files[:1]) if len(found.files) == 1 else None
            if name is not None:
                return np.asarray(found[name])
            held = ", ".join(found.files)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a .npy or .npz file ({error})") from error
    raise InputError(f"{path}: holds the arrays {held}; expected one array, or one named labels")


def require_classes(outputs: NDArray[Any] | None, labels: Labels, label: str) -> None:
    """Raise InputError unless ``outputs`` [samples, classes] can be judged by ``labels``."""
    if outputs is None or outputs.shape[0] != len(labels):
        raise InputError(f"{label}: labels need a first output of one row for each sample; leave --labels out")
    if len(labels) and labels.max() >= outputs.shape[1]:
        raise InputError(f"{label}: its first output has {outputs.shape[1]} classes, but a label is {labels.max()}")


def accuracy(outputs: NDArray[Any], labels: Labels) -> float:
    """The share of rows [samples, classes] whose largest value is at the label."""
    return float(np.mean(outputs.argmax(axis=1) == labels))
