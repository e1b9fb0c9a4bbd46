"""Folded scales undone before models are compared and averaged."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.api.prepare import load, type_models
from onnxmerge.merging.folding import balanced, unfolded
from onnxmerge.merging.repair import plan_repair
from tests.graphs import build, normal

GRAPH = "(float[n,6] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = Gemm<transB=1>(r, w2, b2) }"


def test_units_of_a_layer_have_one_length_in_all_models() -> None:
    weights = [normal(w1=(5, 6), b1=(5,), w2=(3, 5), b2=(3,), seed=seed) for seed in (1, 2)]
    prepared = type_models(load([build(GRAPH, each) for each in weights]), None, None)
    plan = plan_repair(prepared.models.template.graph, prepared.typing, "free")
    found = unfolded(prepared.models, plan.layers)
    lengths = np.stack([np.linalg.norm(each["w1"], axis=1) for each in found.weights])
    np.testing.assert_allclose(lengths, lengths[0, 0], rtol=1e-5)
    for before, after in zip(weights, found.weights, strict=True):
        factors = after["b1"] / before["b1"]
        np.testing.assert_allclose(after["w1"], before["w1"] * factors[:, None], rtol=1e-5)
        np.testing.assert_array_equal(after["w2"], before["w2"])


def test_folded_scales_make_no_difference() -> None:
    plain = normal(w1=(5, 6), b1=(5,), w2=(3, 5), b2=(3,))
    first = normal(w1=(5, 6), b1=(5,), w2=(3, 5), b2=(3,), seed=1)
    scale = np.array([0.1, 0.5, 1, 2, 10], np.float32)
    scale /= np.exp(np.log(scale).mean())
    folded = {**plain, "w1": plain["w1"] * scale[:, None], "b1": plain["b1"] * scale}
    results = []
    for other in (plain, folded):
        prepared = type_models(load([build(GRAPH, each) for each in (first, other)]), None, None)
        plan = plan_repair(prepared.models.template.graph, prepared.typing, "free")
        results.append(unfolded(prepared.models, plan.layers).weights[1])
    for name in ("w1", "b1"):
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-4)


def test_dead_units_stay_as_they_are() -> None:
    weights = normal(w1=(5, 6), b1=(5,), w2=(3, 5), b2=(3,))
    weights["w1"][2] = 0
    other = normal(w1=(5, 6), b1=(5,), w2=(3, 5), b2=(3,), seed=1)
    prepared = type_models(load([build(GRAPH, weights), build(GRAPH, other)]), None, None)
    plan = plan_repair(prepared.models.template.graph, prepared.typing, "free")
    found = unfolded(prepared.models, plan.layers).weights[0]
    assert not found["w1"][2].any()
    assert found["b1"][2] == pytest.approx(weights["b1"][2])


def test_parents_have_equal_length_in_every_unit() -> None:
    weights = [normal(w1=(5, 6), b1=(5,), w2=(3, 5), b2=(3,), seed=seed) for seed in (1, 2)]
    weights[1]["w1"] *= np.array([1, 10, 100, 0.1, 0], np.float32)[:, None]
    prepared = type_models(load([build(GRAPH, each) for each in weights]), None, None)
    plan = plan_repair(prepared.models.template.graph, prepared.typing, "free")
    found = balanced(prepared.models, prepared.typing, [{}], plan.layers)
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
    found = balanced(prepared.models, prepared.typing, [{}], plan.layers)
    np.testing.assert_allclose(found["w2"], weights["w2"], rtol=1e-6)
