from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxmerge.errors import InputError
from onnxmerge.evaluation.labels import folder_labels, read_labels
from onnxmerge.evaluation.task import Task

TASK = Task("t")


def picked(path: Path, task: Task = TASK) -> list[list[float]]:
    found: list[list[float]] = read_labels(path).pick(task).tolist()
    return found


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.array([2, 0, 1], np.uint8))
    assert picked(tmp_path / "y.npy") == [[2], [0], [1]]


def test_npz_with_the_inputs_beside(tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    np.savez(path, images=np.zeros((3, 1, 2, 2)), features=np.zeros((3, 4)), labels=np.array([2, 0, 1]))
    assert picked(path) == [[2], [0], [1]]


def test_inputs_of_another_length_do_not_disturb(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", table=np.zeros((7, 4)), y=np.array([2, 0, 1]))
    assert picked(tmp_path / "test.npz") == [[2], [0], [1]]


def test_the_column_of_the_task_s_name_or_target() -> None:
    labels = read_labels({"t": np.array([1, 2]), "labels": np.array([3, 4]), "u": np.array([5, 6])})
    assert labels.pick(TASK).tolist() == [[1], [2]]
    assert labels.pick(Task("other")).tolist() == [[3], [4]]
    assert labels.pick(Task("other", target=("u", "t"))).tolist() == [[5, 1], [6, 2]]
    with pytest.raises(InputError, match="the labels: has no 'v' for task 'other'; found 't', 'labels', 'u'"):
        labels.pick(Task("other", target=("v",)))


def test_a_choice_that_is_not_clear() -> None:
    with pytest.raises(InputError, match="holds 'a', 'b'; say in the task file which is the target of task 't'"):
        read_labels({"a": np.array([1, 2]), "b": np.array([3, 4])}).pick(TASK)


def test_text_a_line_for_each_sample(tmp_path: Path) -> None:
    (tmp_path / "y.txt").write_text("2\n0\n-1\n\n")
    assert picked(tmp_path / "y.txt") == [[2], [0], [-1]]


def test_csv_with_a_header_and_other_columns(tmp_path: Path) -> None:
    (tmp_path / "y.csv").write_text("file,label,depth\na.png,3,0.5\nb.png,-1,\n", encoding="utf-8-sig")
    assert picked(tmp_path / "y.csv") == [[3], [-1]]
    np.testing.assert_array_equal(picked(tmp_path / "y.csv", Task("depth", kind="regression")), [[0.5], [np.nan]])
    with pytest.raises(InputError, match=r"y.csv: 'file' holds what is no number: .*a\.png"):
        picked(tmp_path / "y.csv", Task("x", target=("file",)))


def test_csv_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "y.csv").write_text("1, 0.5\n2, -3e2\n")
    assert picked(tmp_path / "y.csv") == [[1, 0.5], [2, -300]]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("y.csv", b"1,2\n3\n", "y.csv: cannot be read as labels: line 2 has 1 cells, the first has 2"),
        ("y.txt", b"\n", "y.txt: cannot be read as labels: it is empty"),
        ("y.txt", b"\xff\xfe", "y.txt: is not UTF-8 text"),
        ("y.npy", b"no array", "y.npy: cannot be read as labels"),
        ("y.npz", b"PK\x03\x04 cut", "y.npz: cannot be read as labels"),
        ("y.json", b"[1]", r"y.json: labels are a .npy, .npz, .csv or .txt file"),
        ("y.csv", b"label\n", "y.csv: a label for each sample is expected, found {'label': 0}"),
    ],
)
def test_files_that_are_no_labels(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_labels(tmp_path / name)


def test_labels_that_are_no_numbers() -> None:
    with pytest.raises(InputError, match="expected numbers"):
        read_labels(np.array([1j, 2j])).pick(TASK)
    with pytest.raises(InputError, match=r"shape \[2, 1, 1\], expected \[N\] or \[N, columns\]"):
        read_labels(np.zeros((2, 1, 1))).pick(TASK)


def images(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(path)


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    images(tmp_path, "dog/1.png", "cat/x/2.png", "cat/3.png")
    assert folder_labels(tmp_path).tolist() == [0, 0, 1]


def test_folders_that_are_numbers_are_the_labels(tmp_path: Path) -> None:
    images(tmp_path, "10/1.png", "9/1.png", "-1/1.png")
    assert folder_labels(tmp_path).tolist() == [-1, 10, 9]


def test_images_outside_of_class_folders(tmp_path: Path) -> None:
    images(tmp_path, "cat/1.png", "2.png")
    with pytest.raises(InputError, match=r"2\.png: images in one folder for each class are expected"):
        folder_labels(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: images in one folder"):
        folder_labels(tmp_path / "empty")
