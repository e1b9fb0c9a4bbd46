"""Labels of calibration samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxmerge.errors import InputError
from onnxmerge.evaluation.class_numbers import accuracy, read_labels, require_classes


@pytest.mark.parametrize("kind", ["npy", "one.npz", "several.npz"])
def test_labels_are_read_from_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"y.{kind}"
    if kind == "npy":
        np.save(path, np.array([2, 0, 1], np.uint8))
    elif kind == "one.npz":
        np.savez(path, anything=np.array([2, 0, 1]))
    else:
        np.savez(path, labels=np.array([2, 0, 1]), images=np.zeros((3, 4)))
    assert read_labels(path, 3).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1]), "each of the 3 calibration samples"),
        (np.array([0.5, 1, 2]), "found float64"),
        (np.array([0, -1, 2]), "found class -1"),
    ],
)
def test_what_is_no_class_per_sample_is_refused(labels: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_labels(labels, 3)


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    np.savez(tmp_path / "two.npz", a=np.zeros(3, int), b=np.zeros(3, int))
    with pytest.raises(InputError, match="cannot be read"):
        read_labels(tmp_path / "broken.npy", 3)
    with pytest.raises(InputError, match="holds the arrays a, b"):
        read_labels(tmp_path / "two.npz", 3)


def test_outputs_must_have_a_row_per_sample_and_a_column_per_class() -> None:
    outputs, labels = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]]), np.array([0, 1, 0])
    require_classes(outputs, labels, "a.onnx")
    assert accuracy(outputs, labels) == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="one row for each sample"):
        require_classes(outputs[:2], labels, "a.onnx")
    with pytest.raises(InputError, match="2 classes, but a label is 2"):
        require_classes(outputs, np.array([0, 1, 2]), "a.onnx")
