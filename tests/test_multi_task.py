"""The tables of multi-task merging ask what they say, count right, and train nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.graphs import build, execute, normal
from tools.multi_task import ENSEMBLES, HALVES, Row, halves, measured, some_tested, table, trained
from tools.pairs import Pair

VECTORS = np.random.default_rng(0).standard_normal((100, 6)).astype(np.float32)


def test_the_halves_are_all_classes_with_their_vectors() -> None:
    told = halves(VECTORS)
    classes = [task["classes"] for task in told["tasks"]]
    assert [len(own) for own in classes] == [50, 50]
    assert sorted(classes[0] + classes[1]) == [*range(100)]
    assert classes[0] == sorted(classes[0])
    assert classes[0] != [*range(50)]
    for task in told["tasks"]:
        np.testing.assert_allclose(task["vectors"], VECTORS[task["classes"]], atol=1e-6)
    assert halves(VECTORS) == told


def test_networks_that_are_there_are_not_trained_again(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"a\.onnx is not there yet; say with --torch"):
        trained(tmp_path / HALVES, None)
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / HALVES / name).touch()
    trained(tmp_path / HALVES, None)


def pair(folder: Path) -> Pair:
    """Two networks that answer with embeddings, for two classes each."""
    rng = np.random.default_rng(1)
    graph = "(float[n,6] x) => (float[n,4] y) { h = Gemm<transB=1>(x, w, b) r = Relu(h) y = MatMul(r, v) }"
    models = folder / "a.onnx", folder / "b.onnx"
    for seed, path in enumerate(models):
        onnx.save(build(graph, normal(w=(8, 6), b=(8,), v=(8, 4), seed=seed)), path)
    vectors = rng.standard_normal((4, 4)).astype(np.float32)
    split = {"one": [0, 2], "two": [1, 3]}
    tasks = [{"name": name, "classes": own, "vectors": vectors[own].tolist()} for name, own in split.items()]
    (folder / "pair.json").write_text(json.dumps({"tasks": tasks}))
    images, labels = rng.standard_normal((300, 6)).astype(np.float32), rng.integers(0, 4, 300)
    rows = np.array([0, -1, 1, -1]), np.array([-1, 0, -1, 1])
    own = vectors[[0, 2]], vectors[[1, 3]]
    test = {"images": images, "labels": labels}
    return Pair("small", models, folder / "pair.json", images, None, test, own, rows, joint=True)


def test_a_merge_is_scored_over_all_classes_and_within_its_tasks(tmp_path: Path) -> None:
    found = pair(tmp_path)
    rows = list(measured(found, [ENSEMBLES[0], "average", "act-align +ls"]))
    assert [each["way"] for each in rows] == [*ENSEMBLES, "average", "act-align +ls"]
    one, other = (onnx.load(path) for path in found.models)
    vectors = [own / np.linalg.norm(own, axis=1, keepdims=True) for own in found.vectors]
    answers = [execute(model, {"x": found.test["images"]})["y"] for model in (one, other)]
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in answers]
    right = []
    for each, own, row in zip(unit, vectors, found.rows_of, strict=True):
        wanted = row[found.test["labels"]]
        right.append(((each @ own.T).argmax(axis=1) == wanted)[wanted >= 0].mean())
    assert rows[0]["average"] == pytest.approx(100 * np.mean(right))
    for each in rows:
        assert each["joint"] is not None
        assert each["joint"] < each["average"]


def test_some_test_images_keep_their_labels(tmp_path: Path) -> None:
    every = pair(tmp_path)
    some = some_tested(every, 40).test
    assert len(some["labels"]) == 40
    places = [int(np.flatnonzero((every.test["images"] == image).all(axis=1))[0]) for image in some["images"]]
    np.testing.assert_array_equal(every.test["labels"][places], some["labels"])
    assert len(some_tested(every, 10000).test["labels"]) == 300


def row(name: str, way: str, joint: float | None, average: float) -> Row:
    return {"pair": name, "way": way, "joint": joint, "average": average}


def test_a_table_says_how_much_of_the_ensemble_is_reached() -> None:
    rows = [row(HALVES, "default", 30.0, 50.0), row(HALVES, "ensemble", 40.0, 60.0), row(HALVES, "average", 2.0, 4.0)]
    assert table(HALVES, rows).splitlines() == [
        f"| {HALVES} | joint | average | of the ensemble |",
        "| --- | ---: | ---: | ---: |",
        "| average | 2.00 | 4.00 | 5.0% |",
        "| default | 30.00 | 50.00 | 75.0% |",
        "| ensemble | 40.00 | 60.00 | 100.0% |",
    ]
    rows = [row("of no reference", "zipit", None, 45.0), row("of no reference", "ensemble", None, 90.0)]
    assert table("of no reference", rows).splitlines()[2:] == [
        "| zipit | 45.00 | 50.0% |",
        "| ensemble | 90.00 | 100.0% |",
    ]
