from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.model.read import read_network
from onnxmerge.validation.reconstruction import reconstruct
from tests.graphs import build
from tests.merging.networks import Source

GRAPH = """(float[n,2] x) => (float[n,2] y, float[n,2] z, int64[n] k) {
    y = Mul(x, a) z = Mul(x, b) k = ArgMax<axis=1, keepdims=0>(x)
}"""
PARENT = "(float[n,2] u) => (float[n,2] y) { y = Mul(u, a) }"


def test_the_relative_error_of_each_parent_s_outputs() -> None:
    merged = read_network(build(GRAPH, {"a": np.float32(2), "b": np.float32(3)}))
    parents = [read_network(build(PARENT, {"a": np.float32(scale)})) for scale in (2, 4)]
    data = Source([{"x": np.random.default_rng(i).normal(size=(4, 2)).astype(np.float32)} for i in range(3)])
    found = reconstruct(merged.model, merged.weights, [["y"], ["z"]], parents, data)
    assert found == pytest.approx((0.0, 0.25))
    assert reconstruct(merged.model, merged.weights, [["y", "z", "k"]], [merged], data) == pytest.approx((0.0,))
    silent = read_network(build(PARENT, {"a": np.float32(0)}))
    assert reconstruct(merged.model, merged.weights, [["y"]], [silent], data) == (None,)
