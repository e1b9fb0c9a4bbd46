"""A tensor and its transpose pair up whether they are one tensor or two; they stay one where all networks agree."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge import merge
from tests.graphs import build, execute, initializers, normal
from tests.model.test_pair import matched, refused

TIED = """(int64[n,s] ids) => (float[n,s,9] y) {
    e = Gather(table, ids) h = MatMul(e, w) r = Relu(h) g = MatMul(r, v)
    t = Transpose<perm=[1,0]>(table) y = MatMul(g, t)
}"""
UNTIED = """(int64[n,s] ids) => (float[n,s,9] y) {
    e = Gather(table, ids) h = MatMul(e, w) r = Relu(h) g = MatMul(r, v) y = MatMul(g, head)
}"""
TURNED = """(int64[n,s] ids) => (float[n,s,9] y) {
    e = Gather(table, ids) wt = Transpose(w) h = MatMul(e, wt) r = Relu(h) g = MatMul(r, v) y = MatMul(g, head)
}"""
SHAPES: dict[str, Any] = {"table": (9, 6), "w": (6, 8), "v": (8, 6)}


def tied(seed: int) -> onnx.ModelProto:
    return build(TIED, normal(**SHAPES, seed=seed))


def untied(seed: int, *, equal: bool) -> onnx.ModelProto:
    weights = normal(**SHAPES, head=(6, 9), seed=seed)
    return build(UNTIED, {**weights, "head": weights["table"].T.copy()} if equal else weights)


def turned(seed: int) -> onnx.ModelProto:
    """The first layer's weight is stored the other way round."""
    weights = normal(**SHAPES, head=(6, 9), seed=seed)
    return build(TURNED, {**weights, "w": weights["w"].T.copy()})


def test_one_tensor_where_all_networks_agree() -> None:
    found = matched(tied(0), untied(1, equal=True), tied(2))
    assert set(found.template.graph.initializers) == {"table", "w", "v"}
    assert [node.op_type for node in found.template.graph].count("Transpose") == 1


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_two_tensors_where_one_network_has_two(order: tuple[int, ...]) -> None:
    models = [tied(0), untied(1, equal=False), untied(2, equal=True)]
    found = matched(*(models[index] for index in order))
    assert len(found.template.graph.initializers) == 4


def test_a_weight_that_is_stored_the_other_way_round_stays_so() -> None:
    plain = untied(1, equal=False)
    found = matched(turned(0), plain)
    assert found.template.graph.initializers["w"].shape == (8, 6)
    np.testing.assert_array_equal(found.weights[1]["w"], initializers(plain)["w"].T)
    assert matched(plain, turned(0)).template.graph.initializers["w"].shape == (6, 8)


def test_what_differs_otherwise_is_refused_as_it_stands() -> None:
    other = build(UNTIED.replace("Relu", "Tanh"), normal(**SHAPES, head=(6, 9)))
    assert "(Relu) against node" in refused(tied(0), other)


@pytest.mark.parametrize("models", [(0, 1), (1, 0)])
def test_merged_with_the_other_export_a_network_is_itself(models: tuple[int, int], tmp_path: Path) -> None:
    exports = [tied(0), untied(0, equal=True)]
    found = merge([exports[index] for index in models], method="rebasin", provider="cpu")
    feeds = {"ids": np.arange(9).reshape(3, 3)}
    assert [value.name for value in found.template.graph.outputs] == ["y"]
    saved = onnx.load(found.save(tmp_path / "merged.onnx"))
    np.testing.assert_allclose(execute(saved, feeds)["y"], execute(exports[0], feeds)["y"], rtol=1e-5, atol=1e-6)
