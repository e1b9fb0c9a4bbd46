"""Groups of units are proved where a merge relies on them: where units are moved, or their statistics measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge import ValidationError, merge, permute, plan
from onnxmerge.model import stretches
from tests.command_line import Cli
from tests.graphs import build, normal

GRAPH = "(float[n,6,4,4] x) => (float[n,3,4,4] y) { a = Conv(x, w) b = LRN<size=3>(a) c = Relu(b) y = Conv(c, v) }"
X = np.random.default_rng(0).standard_normal((80, 6, 4, 4)).astype(np.float32)
WRONG = "ai.onnx:\n  LRN: {elementwise: true}\n"
"""LRN mixes channels that are neighbours, so these have an order; this says that it does not."""


def model(seed: int, scale: float = 1.0) -> onnx.ModelProto:
    """Fine-tunes of one network, the farther from it the larger the ``scale`` of what they learnt."""
    base, own = (normal(w=(8, 6, 1, 1), v=(3, 8, 1, 1), seed=each, scale=3) for each in (0, seed))
    return build(GRAPH, {name: array + np.float32(scale) * own[name] for name, array in base.items()})


A, B, BASE = model(1, 0.1), model(2, 0.1), model(0, 0.0)
PLAIN = "(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"


def plain(seed: int) -> onnx.ModelProto:
    base, own = (normal(w=(6, 8), v=(8, 3), seed=each) for each in (0, seed))
    return build(PLAIN, {name: array + np.float32(0.1) * own[name] for name, array in base.items()})


@pytest.mark.parametrize(
    ("settings", "proved"),
    [
        ({"method": "average"}, 0),
        ({"method": "task-arithmetic", "base": plain(0)}, 0),
        ({"method": "soup"}, 0),
        ({"method": "rebasin"}, 2),
        ({"method": "average", "rotate": True}, 2),
        ({"method": "average", "share": 0.5}, 2),
        ({"method": "weight-zip", "width": 1.5}, 2),
        ({"method": "average", "calibration": {"x": X[:, :, 0, 0]}}, 2),
        ({}, 2),
    ],
)
def test_what_moves_nothing_needs_no_certificate(settings: dict[str, Any], proved: int) -> None:
    assert len(merge([plain(1), plain(2)], **settings).report.certificates) == proved
    assert len(plan([plain(1), plain(2)], **settings).certificates) == proved


def test_task_vectors_are_proved_before_a_model_is_brought_into_the_order_of_the_base(tmp_path: Path) -> None:
    moved = onnx.load(permute(plain(2), seed=1).save(tmp_path / "moved.onnx"))
    found = merge([plain(1), moved], base=plain(0), method="ties")
    assert any("brought into the order" in note for note in found.report.notes)
    assert [each.passed for each in found.report.certificates] == [True, True]


@pytest.mark.parametrize(
    ("settings", "moves"),
    [
        ({"method": "average"}, False),
        ({"method": "ties", "base": BASE}, False),
        ({"method": "rebasin"}, True),
        ({"method": "average", "calibration": {"x": X}}, True),
    ],
)
def test_a_wrong_description_harms_nothing_where_nothing_is_moved(
    tmp_path: Path, settings: dict[str, Any], *, moves: bool
) -> None:
    operators = tmp_path / "wrong.yaml"
    operators.write_text(WRONG)
    given: dict[str, Any] = {"models": [A, B], **settings}
    if moves:
        with pytest.raises(ValidationError, match="certificate failed"):
            merge(**given, operators=operators)
        return
    found, right = merge(**given, operators=operators), merge(**given)
    for name in ("w", "v"):
        np.testing.assert_array_equal(found.weights[name], right.weights[name])


NORMED = (
    "(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w) m = ReduceMean<axes=[0], keepdims=1>(h) d = Sub(h, m)"
    " q = Mul(d, d) s = ReduceMean<axes=[0], keepdims=1>(q) t = Sqrt(s) z = Div(d, t) y = MatMul(z, v) }"
)
SQUEEZED = "(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w) r = Relu(h) a = MatMul(r, v) y = Squeeze(a) }"


def test_the_rank_of_an_output_is_not_that_of_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "LARGE", 0)
    models = [build(SQUEEZED, normal(w=(6, 8), v=(8, 3), seed=each)) for each in (1, 2)]
    for each in models:
        each.graph.output[0].type.tensor_type.ClearField("shape")
    written = merge(models, method="average").save(tmp_path / "merged.onnx")
    assert len(onnx.load(written).graph.output[0].type.tensor_type.shape.dim) == 2


@pytest.mark.parametrize("method", ["average", "rebasin"])
def test_what_is_finite_on_a_batch_only_is_looked_at_on_one(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(stretches, "LARGE", 0)
    models = [build(NORMED, normal(w=(6, 8), v=(8, 3), seed=each), opset=17) for each in (1, 2)]
    assert all(each.passed for each in merge(models, method=method).report.certificates)
    opposite = {name: -array for name, array in normal(w=(6, 8), v=(8, 3), seed=1).items()}
    if method == "average":  # what is left of opposite units has no variance
        with pytest.raises(ValidationError, match="output 'y' of the merged model is not finite"):
            merge([models[0], build(NORMED, opposite, opset=17)], method=method)


def test_summary_json_plan_and_page_say_that_nothing_was_moved(tmp_path: Path, cli: Cli) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        onnx.save(plain(seed), tmp_path / f"{name}.onnx")
    given = ("run", "a.onnx", "b.onnx", "--method", "average")
    ended = cli(*given, "-o", "m.onnx", "--json", "m.json", "--report", "m.html")
    assert ended.returncode == 0, ended.stderr
    assert "certificate      none needed: no unit was moved\n" in ended.stdout
    assert "mean similarity  not measured: average matches nothing\n" in ended.stdout
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["certificates"] == []
    assert {group["similarity_after"] for group in report["groups"]} == {None}
    assert "no unit was moved" in (tmp_path / "m.html").read_text(encoding="utf-8")
    assert "certificate      none needed as long as no unit is moved\n" in cli(*given, "--dry-run").stdout
    assert cli("check", "m.onnx", "--against", "a.onnx", "b.onnx", "--certify").returncode == 0
