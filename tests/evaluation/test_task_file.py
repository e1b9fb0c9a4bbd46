from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmerge.errors import InputError
from onnxmerge.evaluation.task_file import read_tasks

CONTENT: dict[str, Any] = {
    "name": "tiny",
    "input": "x",
    "output": "y",
    "kind": "classes",
    "tasks": [
        {"name": "low", "classes": [0, 1], "vectors": [[1, 0, 0], [0, 1, 0]]},
        {"name": "high", "classes": [9], "vectors": [[0, 0, 1]]},
    ],
}


def written(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Path:
    content = copy.deepcopy(CONTENT)
    change(content)
    path = folder / "task.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_classes(tmp_path: Path) -> None:
    found = read_tasks(written(tmp_path))
    assert (found.name, found.input, found.kind) == ("tiny", "x", "classes")
    assert [task.output for task in found.tasks] == ["y", "y"]
    assert [task.name for task in found.tasks] == ["low", "high"]
    assert found.tasks[0].rows(np.array([0, 1, 9, 5])).tolist() == [0, 1, -1, -1]
    assert found.tasks[1].rows(np.array([0, 1, 9, 5])).tolist() == [-1, -1, 0, -1]


def test_without_a_list_models_go_by_letter(tmp_path: Path) -> None:
    assert read_tasks(written(tmp_path)).models == ((tmp_path / "a.onnx", 0), (tmp_path / "b.onnx", 1))


def test_models_by_name(tmp_path: Path) -> None:
    listed = [{"file": "p.onnx", "task": 1}, {"file": "q.onnx", "task": 0}, {"file": "r.onnx", "task": 1}]
    path = written(tmp_path, lambda content: content.update(models=listed))
    assert read_tasks(path).models == ((tmp_path / "p.onnx", 1), (tmp_path / "q.onnx", 0), (tmp_path / "r.onnx", 1))


def test_relabel(tmp_path: Path) -> None:
    odd = {"name": "odd", "label_of": [0, 1, 0, 1], "vectors": [[1, 0], [0, 1]]}
    found = read_tasks(written(tmp_path, lambda content: content.update(kind="relabel", tasks=[odd])))
    assert found.kind == "relabel"
    assert found.tasks[0].rows(np.array([3, 2, 1, 0])).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("tasks"), "entry 'tasks' is missing"),
        (lambda c: c["tasks"][0].pop("classes"), "entry 'classes' is missing"),
        (lambda c: c["tasks"][1].update(name="low"), "two tasks have one name"),
        (lambda c: c["tasks"][1].update(classes=[-1]), "task 'high' has no classes, or negative ones"),
        (lambda c: c["tasks"][1].update(columns=[-1]), r"columns of task 'high' are \[-1\]"),
        (lambda c: c["tasks"][1].update(loss="cubed"), "loss of task 'high' is 'cubed', expected one of absolute"),
        (lambda c: c["tasks"][1].update(regression=True), "task 'high' is a regression; classes, .* do not apply"),
        (lambda c: c["tasks"][1].update(vectors="nosuch.npy"), "nosuch.npy: no such file"),
        (lambda c: c.update(kind="other"), "kind is 'other', expected one of classes, relabel"),
        (lambda c: c.update(tasks=[]), "it has no tasks"),
        (lambda c: c["tasks"][1].update(classes=[9, 8]), "has 1 vectors, expected one for each of its 2 classes"),
        (lambda c: c["tasks"][1].update(classes=[1]), "a class belongs to two tasks"),
        (lambda c: c["tasks"][1].update(vectors=[1, 0]), r"vectors of task 'high' have shape \(2,\)"),
        (lambda c: c.update(models=[{"file": "a.onnx", "task": 2}]), "names task 2, expected 0 to 1"),
        (lambda c: c.update(tasks=3), "not a task file"),
        (
            lambda c: c.update(kind="relabel", tasks=[{"name": "t", "label_of": [0, 1], "vectors": [[1]]}]),
            "task 't' has 1 vectors, expected one for each of its 2 classes",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    path = written(tmp_path, change)
    with pytest.raises(InputError, match=message) as caught:
        read_tasks(path)
    assert str(path.parent) in str(caught.value)


YAML = """
tasks:
  - {name: low, classes: [0, 1], output: logits_a}
  - {name: high, classes: [7, 9], output: logits_b, columns: [1, 0]}
  - {name: wake, threshold: 0.5, output: wake}
  - {name: depth, regression: true, target: [near, far], loss: absolute, output: depth}
  - {name: words, classes: [3, 4], vectors: words.npy}
"""


def test_yaml_and_every_sort_of_head(tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", np.eye(2))
    (tmp_path / "tasks.yaml").write_text(YAML)
    low, high, wake, depth, words = read_tasks(tmp_path / "tasks.yaml").tasks
    assert (low.output, low.columns, low.classes, low.kind) == ("logits_a", None, 2, "classification")
    assert (high.output, high.columns) == ("logits_b", (1, 0))
    assert (wake.threshold, wake.row_of, wake.classes) == (0.5, None, None)
    assert (depth.kind, depth.target, depth.loss) == ("regression", ("near", "far"), "absolute")
    assert words.vectors is not None
    assert words.vectors.tolist() == [[1, 0], [0, 1]]


def test_files_that_are_not_json(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_bytes(b"{")
    listing = tmp_path / "list.json"
    listing.write_text("[]")
    absent = tmp_path / "absent.json"
    for path, message in ((broken, "is not JSON"), (listing, "not a task file"), (absent, "no such file")):
        with pytest.raises(InputError, match=message):
            read_tasks(path)


def test_pairs_of_the_shared_material(shared: Path) -> None:
    kinds = {path.parent.name: read_tasks(path).kind for path in (shared / "pairs").glob("*/pair.json")}
    assert kinds["cifar5-vit"] == "classes"
    assert kinds["mnist-mlp"] == "relabel"
