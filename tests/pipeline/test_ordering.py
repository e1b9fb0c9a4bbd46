"""Models that are averaged as they stand: what is said where their units seem to stand in other orders."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmerge import merge
from tests.graphs import build, normal

GRAPH = "(float[n,6] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }"
WEIGHTS = normal(w1=(32, 6), b1=(32,), w2=(32, 3), b2=(3,), seed=1)
NEAR = {name: array + 0.3 * normal(v=array.shape, seed=5)["v"] for name, array in WEIGHTS.items()}
ORDER = np.random.default_rng(3).permutation(32)
PERMUTED = {**WEIGHTS, "w1": WEIGHTS["w1"][ORDER], "b1": WEIGHTS["b1"][ORDER], "w2": WEIGHTS["w2"][ORDER]}
CONSTANT = {**WEIGHTS, "w1": np.ones((32, 6), np.float32), "w2": np.zeros((32, 3), np.float32)}


def network(seed: int) -> onnx.ModelProto:
    return build(GRAPH, normal(w1=(32, 6), b1=(32,), w2=(32, 3), b2=(3,), seed=seed))


@pytest.mark.parametrize(
    ("other", "method", "told"),
    [
        (network(2), "average", True),
        (network(2), "rebasin", False),
        (build(GRAPH, PERMUTED), "average", True),
        (build(GRAPH, NEAR), "average", False),
        (network(1), "average", False),
        (build(GRAPH, CONSTANT), "average", False),
    ],
    ids=["another training", "matched", "permuted copy", "fine-tune", "itself", "nothing to tell by"],
)
def test_an_average_of_models_in_other_orders_says_so(other: onnx.ModelProto, method: str, *, told: bool) -> None:
    notes = merge([network(1), other], method=method, repair="none").report.notes
    assert any("seem to stand in another order" in note for note in notes) == told
