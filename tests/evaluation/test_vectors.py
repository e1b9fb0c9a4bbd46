from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxmerge.errors import InputError
from onnxmerge.evaluation.task import Task
from onnxmerge.evaluation.vectors import read_vectors, with_vectors

LOW, HIGH = Task("low", row_of={0: 0, 1: 1}), Task("high", row_of={3: 0, 2: 1})


def rows(task: Task) -> list[list[float]]:
    assert task.vectors is not None
    found: list[list[float]] = task.vectors.tolist()
    return found


def test_a_vector_for_every_label(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.diag([1.0, 2, 3, 4]))
    low, high = with_vectors((LOW, HIGH), tmp_path / "v.npy")
    assert rows(low) == [[1, 0, 0, 0], [0, 2, 0, 0]]
    assert rows(high) == [[0, 0, 0, 4], [0, 0, 3, 0]]
    (one,) = with_vectors((Task("all"),), tmp_path / "v.npy")
    assert len(rows(one)) == 4


def test_an_array_for_each_task(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", low=np.eye(2), high=2 * np.eye(2))
    low, high = with_vectors((LOW, HIGH), tmp_path / "v.npz")
    assert (rows(low)[0], rows(high)[0]) == ([1, 0], [2, 0])


def test_vectors_that_do_not_fit(tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.eye(3))
    with pytest.raises(InputError, match="holds 3 vectors, which do not belong to the classes of task 'high'"):
        with_vectors((LOW, HIGH), tmp_path / "few.npy")
    np.savez(tmp_path / "more.npz", low=np.eye(3))
    with pytest.raises(InputError, match="has 3 vectors for the 2 classes of task 'low'"):
        with_vectors((LOW,), tmp_path / "more.npz")
    np.savez(tmp_path / "other.npz", a=np.eye(3), b=np.eye(3))
    with pytest.raises(InputError, match=r"holds a, b; one array \[classes, width\] is expected"):
        read_vectors(tmp_path / "other.npz")
    np.save(tmp_path / "flat.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"'flat' is float64\[3\], expected numbers \[classes, width\]"):
        read_vectors(tmp_path / "flat.npy")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(InputError, match=r"cut\.npz: cannot be read as class vectors"):
        read_vectors(tmp_path / "cut.npz")
