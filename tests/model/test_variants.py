"""Variants of a network in one graph give what each gives by itself."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxmerge.model.lazy_weights import Overlay
from onnxmerge.model.session import open_session
from onnxmerge.model.variants import variants
from onnxmerge.types import Array
from tests.graphs import build, normal

MLP = """(float[n,6] x) => (float[n,3] y, float[n,5] r) {
    h = Gemm<transB=1>(x, w1, b1) r = Relu(h) z = MatMul(r, w2) y = Softmax(z) }"""
BRANCH = """(float[n,6] x, bool c) => (float[n,5] y) {
    y = If (c) <then_branch = t () => (float[n,5] p) { p = MatMul(x, w1) },
                else_branch = e () => (float[n,5] q) { q = MatMul(x, w2) }> }"""
X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


def model(text: str, weights: dict[str, Array]) -> ir.Model:
    return ir.from_proto(build(text, weights))


@pytest.mark.parametrize("changed", [["w2"], ["b1"], ["w1", "w2"], []], ids=str)
def test_each_variant_gives_what_it_gives_by_itself(changed: list[str]) -> None:
    weights = normal(w1=(5, 6), b1=(5,), w2=(5, 3))
    net = model(MLP, weights)
    others = [normal(w1=(5, 6), b1=(5,), w2=(5, 3), seed=seed) for seed in (1, 2)]
    changes = [{name: other[name] for name in changed} for other in others]
    found = variants(net, ["y", "r"], [{}, *changes])
    assert found is not None
    names = list(dict.fromkeys(name for own in found.names for name in own.values()))
    results = open_session(found.model, weights=Overlay(weights, found.changed), outputs=names).run({"x": X})
    for change, own in zip([{}, *changes], found.names, strict=True):
        alone = open_session(net, weights=Overlay(weights, change)).run({"x": X})
        for name, array in alone.items():
            np.testing.assert_array_equal(results[own[name]], array)


def test_what_no_variant_changes_is_there_once() -> None:
    net = model(MLP, normal(w1=(5, 6), b1=(5,), w2=(5, 3)))
    found = variants(net, ["y", "r"], [{}, {"w2": np.zeros((5, 3), np.float32)}])
    assert found is not None
    assert [node.op_type for node in found.model.graph] == ["Gemm", "Relu", "MatMul", "Softmax", "MatMul", "Softmax"]
    assert found.names[0]["r"] == found.names[1]["r"] == "r"
    assert len(net.graph) == 4


def test_a_node_with_subgraphs_is_not_repeated() -> None:
    net = model(BRANCH, normal(w1=(6, 5), w2=(6, 5)))
    assert variants(net, ["y"], [{}, {"w1": np.zeros((6, 5), np.float32)}]) is None
    assert variants(net, ["y"], [{}, {}]) is not None
