"""Equal say of the parents in units that are repaired."""

from __future__ import annotations

import numpy as np

from onnxmerge.api.prepare import load, type_models
from onnxmerge.merging.balance import balanced
from onnxmerge.merging.repair import plan_repair
from tests.graphs import build, normal

GRAPH = "(float[n,6] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = Gemm<transB=1>(r, w2, b2) }"


def test_parents_have_equal_length_in_every_unit() -> None:
    weights = [normal(w1=(5, 6), b1=(5,), w2=(3, 5), b2=(3,), seed=seed) for seed in (1, 2)]
    weights[1]["w1"] *= np.array([1, 10, 100, 0.1, 0], np.float32)[:, None]
    prepared = type_models(load([build(GRAPH, each) for each in weights]), None, None)
    plan = plan_repair(prepared.models.template.graph, prepared.typing, "free")
    found = balanced(prepared.models, prepared.typing, [{}], plan)
    assert list(found) == ["w1"]
    first, second = (each["w1"].astype(np.float64) for each in weights)
    lengths = [np.linalg.norm(each, axis=1, keepdims=True) for each in (first, second)]
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = (first / lengths[0] + second / lengths[1]) / 2 * np.sqrt(lengths[0] * lengths[1])
    np.testing.assert_allclose(found["w1"][:4], expected[:4], rtol=1e-5)
    np.testing.assert_allclose(found["w1"][4], (first[4] + second[4]) / 2, rtol=1e-5)


def test_equal_parents_stay_as_they_are() -> None:
    weights = normal(w1=(5, 6), b1=(5,), w2=(3, 5), b2=(3,))
    prepared = type_models(load([build(GRAPH, weights)] * 2), None, None)
    plan = plan_repair(prepared.models.template.graph, prepared.typing, "all")
    found = balanced(prepared.models, prepared.typing, [{}], plan)
    np.testing.assert_allclose(found["w2"], weights["w2"], rtol=1e-6)
