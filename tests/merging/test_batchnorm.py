"""Re-estimated running statistics normalise every channel of the merged network."""

from __future__ import annotations

from collections import ChainMap
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.merging.repair.batchnorm import reestimate
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.normalisation import batchnorms
from tests.graphs import batchnorm, normal
from tests.layouts import typed
from tests.merging.networks import KEPT, Source, images, network, residual, residual_typing, values


def stacked(source: Source) -> dict[str, NDArray[Any]]:
    return {"x": np.concatenate([feed["x"] for feed in source.feeds])}


@pytest.mark.parametrize("batch", [1, 100])
@pytest.mark.parametrize("opset", [15, 21])
def test_every_batchnorm_sees_its_own_statistics(batch: int, opset: int) -> None:
    """In one pass where batches are large, layer after layer where the network takes one sample at a time."""
    net = residual(KEPT, batch="float[1" if batch == 1 else "float[n", opset=opset)
    source = images(100, batch)
    changed = reestimate(net.model, residual_typing(), net.weights, source)
    assert sorted(changed) == ["n1_mean", "n1_var", "n2_mean", "n2_var"]
    weights = ChainMap(changed, dict(net.weights))
    free = residual(KEPT, opset=opset)
    for name, (mean, variance) in {"a": ("n1_mean", "n1_var"), "c": ("n2_mean", "n2_var")}.items():
        value = values(free.model, weights, [name], stacked(source))[name]
        np.testing.assert_allclose(changed[mean], value.mean(axis=(0, 2, 3)), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(changed[variance], value.var(axis=(0, 2, 3)), rtol=1e-3)
        assert changed[mean].dtype == np.float32


def test_both_ways_agree() -> None:
    one, other = (
        reestimate(residual(KEPT, batch=batch).model, residual_typing(), residual(KEPT).weights, images(60, size))
        for batch, size in (("float[n", 60), ("float[1", 1))
    )
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_statistics_that_are_shared_are_those_of_all_inputs() -> None:
    text = """(float[n,3] x, float[n,3] z) => (float[n,3] y) {
        a = BatchNormalization(x, s_scale, s_bias, s_mean, s_var)
        b = BatchNormalization(z, s_scale, s_bias, s_mean, s_var)
        y = Add(a, b) }"""
    net = network(text, batchnorm("s", 3))
    rng = np.random.default_rng(0)
    feed = {"x": rng.normal(2, 1, (50, 3)).astype(np.float32), "z": rng.normal(-2, 1, (50, 3)).astype(np.float32)}
    typing = typed([], {}, {"x": ["2", "3"], "z": ["2", "3"]})
    changed = reestimate(net.model, typing, net.weights, Source([feed]))
    both = np.concatenate(list(feed.values())).astype(np.float64)
    np.testing.assert_allclose(changed["s_mean"], both.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(changed["s_var"], both.var(axis=0), rtol=1e-4)


def test_a_network_without_batchnorm_needs_no_data() -> None:
    net = network("(float[n,4] x) => (float[n,3] y) { y = MatMul(x, w) }", normal(w=(4, 3)))
    assert batchnorms(net.graph) == []
    assert reestimate(net.model, typed([], {}), LazyWeights([], net.weights.__getitem__), Source([])) == {}
