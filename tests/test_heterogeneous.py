"""The suite of encoders of other tasks asks what it says, and counts right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.graphs import batchnorm, build, normal
from tools.heterogeneous import LAST, Material, Row, measured, questions_of, tables
from tools.vision_tasks import TASKS, Images, corners, gradient

IMAGES: Images = np.random.default_rng(0).standard_normal((40, 3, 32, 32), np.float32)
LABELS = np.arange(40) % 10


@pytest.mark.parametrize("name", TASKS)
def test_a_task_asks_for_what_its_head_answers(name: str) -> None:
    task, before = TASKS[name], IMAGES.copy()
    given, right = task.pose(IMAGES, LABELS, np.random.default_rng(1))
    assert given.shape == IMAGES.shape
    assert given.dtype == np.float32
    assert (before == IMAGES).all(), "images are those of all tasks"
    if task.classes:
        assert set(right.tolist()) == set(range(task.classes))
    else:
        assert right.dtype == np.float32
        assert right.shape == (40, task.channels * task.side**2)


def test_what_is_missing_or_lost_is_not_given() -> None:
    rng = np.random.default_rng(1)
    given, right = TASKS["inpaint"].pose(IMAGES, LABELS, rng)
    assert not given[:, :, 8:24, 8:24].any()
    assert (right.reshape(40, 3, 16, 16) == IMAGES[:, :, 8:24, 8:24]).all()
    given, right = TASKS["colourise"].pose(IMAGES, LABELS, rng)
    assert (given[:, 0] == given[:, 2]).all()
    np.testing.assert_allclose(given + right.reshape(IMAGES.shape), IMAGES, atol=1e-6)
    given, turns = TASKS["rotation"].pose(IMAGES, LABELS, rng)
    assert all(
        (np.rot90(each, -turn, axes=(1, 2)) == one).all() for each, turn, one in zip(given, turns, IMAGES, strict=True)
    )


def test_a_square_has_edges_and_corners_where_they_are() -> None:
    square = np.zeros((1, 32, 32), np.float32)
    square[:, 8:24, 8:24] = 1
    across, down = gradient(square)
    assert across[0, 16, 8] == across[0, 16, 7] == down[0, 8, 16] == 0.5
    assert across[0, 16, 23] == -0.5
    assert not across[0, 8, 16]
    found = corners(square)[0]
    assert np.unravel_index(found[:16, :16].argmax(), (16, 16)) in [(y, x) for y in (7, 8) for x in (7, 8)]
    assert found[16, 8] == found[16, 16] == 0


def test_the_best_single_answer_loses_what_it_should() -> None:
    asked = questions_of("classes", IMAGES, LABELS)
    loss, mean = asked.loss(np.zeros((40, 10)))
    assert loss == pytest.approx(np.log(10))
    assert mean == pytest.approx(np.log(10))
    asked = questions_of("edges", IMAGES, LABELS)
    values = asked.right.values
    loss, mean = asked.loss(np.broadcast_to(values.mean(axis=0), values.shape))
    assert loss == pytest.approx(mean)
    assert asked.loss(values)[0] == 0


def network(task: str, seed: int) -> onnx.ModelProto:
    """An encoder that ends in a node called as in those that torch exports, and a head."""
    heads = {
        "classes": "g = GlobalAveragePool(r) y = Flatten(g) answer = Gemm<transB=1>(y, v)",
        "edges": 'p = Conv(r, v) d = DepthToSpace<blocksize=8, mode="CRD">(p) answer = Flatten(d)',
    }
    shapes = {"classes": (10, 8), "edges": (64, 8, 1, 1)}
    model = build(
        f"""(float[n,3,32,32] images) => (float[n,{10 if task == "classes" else 1024}] answer) {{
            a = Conv<strides=[8,8]>(images, w) b = BatchNormalization(a, n_scale, n_bias, n_mean, n_var)
            r = Relu(b) {heads[task]}
        }}""",
        {**normal(w=(8, 3, 8, 8), v=shapes[task], seed=seed), **batchnorm("n", 8, seed=seed)},
    )
    next(node for node in model.graph.node if node.op_type == "Relu").name = LAST
    return model


def test_pairs_are_merged_scored_and_not_done_twice(tmp_path: Path) -> None:
    (tmp_path / "apart").mkdir()
    names = ["classes", "edges"]
    for seed, name in enumerate(names):
        onnx.save(network(name, seed), tmp_path / "apart" / f"{name}.onnx")
    questions = {name: questions_of(name, IMAGES, LABELS) for name in names}
    material = Material(IMAGES, questions)
    methods = ["average", "mudsc-zip"]
    rows: list[Row] = list(measured(tmp_path, ["apart"], names, methods, material, ()))
    assert [(row["tasks"], row["method"]) for row in rows] == [
        (["classes"], "parent"),
        (["edges"], "parent"),
        (names, "average"),
        (names, "mudsc-zip"),
    ]
    for row in rows[2:]:
        for name, loss in zip(names, row["losses"], strict=True):
            assert loss != rows[names.index(name)]["losses"][0]
    again = json.loads(json.dumps(rows[:3]))
    (rest,) = measured(tmp_path, ["apart"], names, methods, material, again)
    assert {**rest, "seconds": 0} == {**rows[3], "seconds": 0}


def row(method: str, scaled: tuple[float, ...], tasks: tuple[str, ...] = ("classes", "edges")) -> Row:
    losses = {"losses": [1.0] * len(tasks), "mean_answer": [2.0] * len(tasks)}
    return {"group": "apart", "tasks": [*tasks], "method": method, "scaled": [*scaled], "seconds": 2.0, **losses}


def test_tables_say_how_often_a_method_is_above_the_average() -> None:
    rows = [row("parent", (1.0,), ("classes",)), row("parent", (1.0,), ("edges",))]
    rows += [row("average", (0.1, 0.5)), row("mudsc-zip", (0.4, 0.4)), row("default", (0.7, 0.9))]
    parents, methods, pairs = tables(rows, detail=True)
    assert "| edges | the length of Sobel's gradient | 2.0000 | 1.0000 |" in parents
    assert "| average | 10.0 | 50.0 | 30.0 | 30.0 |  |  | 2.0 |" in methods
    assert "| mudsc-zip | 40.0 | 40.0 | 40.0 | 40.0 | 1 of 2 | 1 of 1 | 2.0 |" in methods
    assert "| default | 70.0 | 90.0 | 80.0 | 80.0 | 2 of 2 | 1 of 1 | 2.0 |" in methods
    assert "| classes + edges | 10.0, 50.0 | 40.0, 40.0 | 70.0, 90.0 |" in pairs
