"""Per-channel moments of tensors in a running network."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxmerge.activations.moments import Moments, Probe, by_batch, levels, measure
from onnxmerge.errors import InputError
from tests.graphs import normal
from tests.merging.networks import FOLDED, images, network, residual, values

FLOAT = ir.DataType.FLOAT


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_moments_over_unequal_batches(opset: int) -> None:
    net, source = residual(opset=opset), images(20, 8)
    found = measure(net.model, net.weights, [Probe("d", 1, 4, FLOAT), Probe("x", 1, 4, FLOAT)], source)
    everything = {"x": np.concatenate([feed["x"] for feed in source.feeds])}
    for name, value in {**values(net.model, net.weights, ["d"], everything), **everything}.items():
        np.testing.assert_allclose(found[name].mean, value.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[name].std, value.std(axis=(0, 2, 3)), rtol=1e-4)
        assert found[name].count == 20 * 25


def test_the_last_axis_and_half_precision() -> None:
    weights = {name: value.astype(np.float16) for name, value in normal(w=(4, 3)).items()}
    net = network("(float16[n,t,4] x) => (float16[n,t,3] y) { y = MatMul(x, w) }", weights)
    x = np.random.default_rng(0).normal(100, 1, (50, 7, 4)).astype(np.float16)
    found = measure(net.model, net.weights, [Probe("y", -1, 3, ir.DataType.FLOAT16)], [{"x": x}])["y"]
    y = values(net.model, net.weights, ["y"], {"x": x})["y"].astype(np.float64)
    np.testing.assert_allclose(found.mean, y.mean(axis=(0, 1)), rtol=1e-3)
    np.testing.assert_allclose(found.variance, y.var(axis=(0, 1)), rtol=1e-2)


def test_a_large_mean_costs_no_precision() -> None:
    net = network("(float[n,2] x) => (float[n,2] y) { y = Identity(x) }", {})
    x = np.random.default_rng(0).normal(1e4, 1e-1, (1000, 2)).astype(np.float32)
    found = measure(net.model, {}, [Probe("x", 1, 2, FLOAT)], [{"x": x[:500]}, {"x": x[500:]}])["x"]
    np.testing.assert_allclose(found.std, x.astype(np.float64).std(axis=0), rtol=2e-2)


def test_a_batch_in_parts_has_the_moments_of_the_batch() -> None:
    net, probe = residual(), Probe("d", 1, 4, FLOAT)
    (batch,) = images(20, 20).feeds
    (whole,), (parts,) = (list(by_batch(net.model, net.weights, [probe], [batch], most=most)) for most in (None, 6))
    np.testing.assert_allclose(parts["d"].mean, whole["d"].mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(parts["d"].variance, whole["d"].variance, rtol=1e-5)
    assert parts["d"].count == whole["d"].count == 20 * 25


def test_pooling_is_exact() -> None:
    values = np.random.default_rng(0).normal(size=(10, 3))
    one, other = (Moments(len(part), part.mean(axis=0), part.var(axis=0)) for part in (values[:3], values[3:]))
    np.testing.assert_allclose((one + other).variance, values.var(axis=0))
    np.testing.assert_allclose((one + other).mean, values.mean(axis=0))


def test_levels_follow_the_graph() -> None:
    graph = residual(FOLDED).graph
    probes = {name: Probe(name, 1, rank, FLOAT) for name, rank in {"y": 2, "d": 4, "p": 4}.items()}
    assert levels(graph, list(probes.values())) == [[probes["p"]], [probes["d"]], [probes["y"]]]


def test_no_data_and_no_finite_data() -> None:
    net, probe = residual(), Probe("d", 1, 4, FLOAT)
    with pytest.raises(InputError, match="no calibration data"):
        measure(net.model, net.weights, [probe], [])
    with pytest.raises(InputError, match=r"tensor d: .* not finite"):
        measure(net.model, net.weights, [probe], [{"x": np.full((2, 3, 5, 5), np.inf, np.float32)}])
