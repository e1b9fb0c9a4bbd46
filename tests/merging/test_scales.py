"""One scale for the units of networks with BatchNorm kept and with BatchNorm folded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.activations.measuring import measure_statistics
from onnxmerge.activations.statistics import Statistics
from onnxmerge.merging.repair.plan import plan_repair
from onnxmerge.merging.scales import ScalePlan, balanced, comparable, plan_scales
from onnxmerge.pipeline.prepare import Prepared, load, type_models
from tests.graphs import batchnorm, build, normal
from tests.merging.networks import Source

HEAD = "(float[n,4,6,6] x) => (float[n,3] y) {"
TAIL = "r = Relu(h) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w2, b2) }"
KEPT = f"{HEAD} c = Conv(x, w1, b1) h = BatchNormalization(c, n_scale, n_bias, n_mean, n_var) {TAIL}"
FOLDED = f"{HEAD} h = Conv(x, w1, b1) {TAIL}"

Arrays = dict[str, NDArray[Any]]


def parent(seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    norm = batchnorm("n", 5)
    norm = {name: (array + rng.uniform(0.1, 1, 5)).astype(np.float32) for name, array in norm.items()}
    norm["n_scale"][1] *= -1
    return {**normal(w1=(5, 4, 3, 3), b1=(5,), w2=(3, 5), b2=(3,), seed=seed), **norm}


def fold(weights: Arrays) -> Arrays:
    factor = weights["n_scale"] / np.sqrt(weights["n_var"] + 1e-5)
    return {
        "w1": weights["w1"] * factor[:, None, None, None],
        "b1": (weights["b1"] - weights["n_mean"]) * factor + weights["n_bias"],
        "w2": weights["w2"],
        "b2": weights["b2"],
    }


def measured(graph: str, parents: list[Arrays]) -> tuple[Prepared, ScalePlan, Statistics]:
    prepared = type_models(load([build(graph, each) for each in parents]), None, None)
    models, typing = prepared.models, prepared.typing
    plan = plan_scales(models.template.graph, typing, plan_repair(models.template.graph, typing, "free").layers)
    images = np.random.default_rng(9).normal(0.5, 1, (200, 4, 6, 6)).astype(np.float32)
    statistics = measure_statistics(models.template, models.weights, typing, plan.requests, Source([{"x": images}]))
    return prepared, plan, statistics


def seen(graph: str, parents: list[Arrays]) -> list[Arrays]:
    """What matching compares, in each parent."""
    prepared, plan, statistics = measured(graph, parents)
    views, typing = comparable(prepared.models, prepared.typing, plan, statistics)
    names = [name for name in typing.initializers if name not in typing.statistics]
    return [{name: np.asarray(view[name]) for name in names} for view in views]


def test_kept_and_folded_networks_look_the_same() -> None:
    parents = [parent(1), parent(2)]
    for kept, folded in zip(seen(KEPT, parents), seen(FOLDED, [fold(each) for each in parents]), strict=True):
        assert list(kept) == list(folded) == ["w1", "w2", "b2", "mean of h"]
        for name, array in kept.items():
            np.testing.assert_allclose(array, folded[name], rtol=1e-4, atol=1e-5)


def test_units_are_as_long_as_their_outputs_deviate() -> None:
    prepared, plan, statistics = measured(KEPT, [parent(1), parent(2)])
    for model, view in enumerate(comparable(prepared.models, prepared.typing, plan, statistics)[0]):
        moments = statistics.moments[model, "h", plan.requests[0].space]
        lengths = np.linalg.norm(view["w1"].reshape(5, -1).astype(np.float64), axis=1)
        np.testing.assert_allclose(lengths, np.sqrt(moments.variance), rtol=1e-5)
        np.testing.assert_allclose(view["mean of h"], moments.mean, rtol=1e-6)


@pytest.mark.parametrize("graph", [KEPT, FOLDED])
def test_parents_weigh_in_by_their_deviations(graph: str) -> None:
    parents = [parent(1), parent(2)]
    given = parents if graph == KEPT else [fold(each) for each in parents]
    prepared, plan, statistics = measured(graph, given)
    scaled = balanced(prepared.models, prepared.typing, plan, statistics)
    lengths, deviations = [], []
    for model, (before, after) in enumerate(zip(given, scaled.weights, strict=True)):
        lengths.append(np.linalg.norm(after["w1"].reshape(5, -1).astype(np.float64), axis=1))
        deviations.append(np.sqrt(statistics.moments[model, "h", plan.requests[0].space].variance))
        moments = statistics.moments[model, "h", plan.requests[0].space]
        if graph == KEPT:
            np.testing.assert_allclose(after["n_scale"], np.sqrt(moments.variance), rtol=1e-5)
            np.testing.assert_allclose(after["n_bias"], moments.mean, rtol=1e-5)
            assert (after["w1"][1] * before["w1"][1]).sum() < 0
        measured_again = ("w1", "n_scale", "n_bias")
        assert all(np.array_equal(before[name], after[name]) for name in before if name not in measured_again)
    ratios = np.stack(lengths) / np.stack(deviations)
    np.testing.assert_allclose(ratios, ratios[0, 0], rtol=1e-5)
    stored = np.stack([np.linalg.norm(each["w1"].reshape(5, -1).astype(np.float64), axis=1) for each in given])
    np.testing.assert_allclose(np.log(np.stack(lengths)).mean(), np.log(stored).mean(), rtol=1e-5)


def test_a_unit_without_weights_stays_finite() -> None:
    weights = fold(parent(1))
    weights["w1"][2] = 0
    prepared, plan, statistics = measured(FOLDED, [weights, fold(parent(2))])
    views, _ = comparable(prepared.models, prepared.typing, plan, statistics)
    assert not views[0]["w1"][2].any()
    assert np.isfinite(views[0]["w1"]).all()
    assert np.isfinite(balanced(prepared.models, prepared.typing, plan, statistics).weights[0]["w1"]).all()


def test_where_nothing_normalises_nothing_is_scaled() -> None:
    prepared = type_models(load([build(FOLDED, fold(parent(seed))) for seed in (1, 2)]), None, None)
    assert not plan_scales(prepared.models.template.graph, prepared.typing, ()).layers


def test_kept_and_folded_parents_average_to_one_network() -> None:
    parents = [parent(1), parent(2)]
    rows = []
    for graph, given in ((KEPT, parents), (FOLDED, [fold(each) for each in parents])):
        prepared, plan, statistics = measured(graph, given)
        scaled = balanced(prepared.models, prepared.typing, plan, statistics).weights
        mean = np.sum([each["w1"].astype(np.float64) for each in scaled], axis=0).reshape(5, -1)
        rows.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)
