"""Quantised networks taken apart, and put together again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxmerge.errors import InputError
from onnxmerge.model import read_network
from onnxmerge.model.dequantise import Dequantised, dequantised, is_quantised
from onnxmerge.model.dequantise.networks import READERS
from onnxmerge.model.network import Network
from onnxmerge.model.pair import pair
from onnxmerge.model.scheme import Scheme, requantised
from tests.graphs import build, normal
from tests.quantised import FORMATS, IMAGES, quantised

RNG = np.random.default_rng(0)
CLOSE = 0.06
"""Activations of these networks are rounded to 8 bits some times in a row."""


def answers(model: ir.Model | onnx.ModelProto, feeds: dict[str, Any]) -> list[np.ndarray]:
    """What ONNX Runtime gives without optimisation: some of its fused kernels overflow on some processors."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    found: list[np.ndarray] = ort.InferenceSession(proto.SerializeToString(), options).run(None, feeds)
    return found


def difference(one: Network, other: Network, feeds: dict[str, Any]) -> float:
    a, b = (np.concatenate([each.ravel() for each in answers(network.model, feeds)]) for network in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def apart(source: Any) -> tuple[Dequantised, Scheme]:
    found = dequantised([read_network(source)])[0]
    assert found.scheme is not None
    return found, found.scheme


def again(found: Dequantised, scheme: Scheme, weights: Any = None) -> Network:
    own = found.network.weights
    return requantised(scheme, found.network.graph, own if weights is None else weights, {})


@pytest.mark.parametrize("name", FORMATS)
def test_the_float_form_computes_the_same_and_goes_back(name: str, tmp_path: Path) -> None:
    network = read_network(quantised(name, tmp_path / "m.onnx"))
    found, scheme = apart(tmp_path / "m.onnx")
    assert not is_quantised(found.network)
    onnx.checker.check_model(ir.to_proto(found.network.model), full_check=True)
    assert difference(network, found.network, {"images": IMAGES}) < CLOSE
    assert len(scheme.weights) >= 3  # a vector that is added may be another
    back, own = again(found, scheme).weights, network.weights
    for key in own:
        assert back[key].dtype == own[key].dtype, key
        np.testing.assert_array_equal(back[key], own[key], key)
    assert difference(network, again(found, scheme), {"images": IMAGES}) == 0


@pytest.mark.parametrize("name", FORMATS)
def test_other_weights_are_rounded_by_no_more_than_the_scheme_does(name: str, tmp_path: Path) -> None:
    found, scheme = apart(quantised(name, tmp_path / "m.onnx"))
    own = found.network.weights
    other = {
        key: (own[key] * np.float32(1.7) + np.float32(0.01)).astype(own[key].dtype)
        for key in own
        if own[key].dtype == np.float32
    }
    network = again(found, scheme, {**own, **other})
    after = dequantised([network])[0].network.weights
    for weight in scheme.weights:
        steps = np.abs(weight.blocks(network.weights).scale.astype(np.float64))
        wrong = np.abs(weight.form.split(after[weight.name]) - weight.form.split(other[weight.name])).max(axis=1)
        clipped = 1.0 if "four bits" in name else 0.5  # what lies opposite the greatest number of a block, at most
        assert (wrong <= steps * clipped * 1.01 + 1e-7).all()
        assert (steps <= 1.75 * np.abs(weight.blocks(scheme.network.weights).scale) + 0.02).all()


GRAPHS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "rounded when it runs": (
        """(float[n,4] x) => (float[n,3] y) {
            q = QuantizeLinear<axis=1>(w, s, z) w2 = DequantizeLinear<axis=1>(q, s, z) y = MatMul(x, w2)
        }""",
        {**normal(w=(4, 3)), "s": RNG.uniform(0.01, 0.02, 3).astype(np.float32), "z": np.zeros(3, np.int8)},
        {},
    ),
    "a table": (
        """(int64[n] x) => (float[n,3] y) {
            e = Gather(table, x) d = DequantizeLinear(e, s, z) y = MatMul(d, w)
        }""",
        {
            "table": RNG.integers(0, 255, (9, 4), dtype=np.uint8), "s": np.float32(0.02), "z": np.uint8(130),
            **normal(w=(4, 3)),
        },
        {},
    ),
    "blocks of four bits": (
        "(float[n,8] x) => (float[n,3] y) { w = DequantizeLinear<axis=0, block_size=4>(q, s) y = MatMul(x, w) }",
        {
            "q": RNG.integers(-8, 8, (8, 3)).astype(ml_dtypes.int4),
            "s": RNG.uniform(0.01, 0.1, (2, 3)).astype(np.float32),
        },
        {},
    ),
    "integers that are moved about": (
        """(float[n,2,4,4] x) => (float[n,4,2,2] y) {
            q = QuantizeLinear(x, s, z) m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(q) t = Concat<axis=1>(m, m)
            y = DequantizeLinear(t, s, z)
        }""",
        {"s": np.float32(0.03), "z": np.uint8(128)},
        {},
    ),
    "one scale for all": (
        """(float[n,4] x) => (float[n,4] y) {
            q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear(c, s, z) h = MatMul(d, w)
            r = QuantizeLinear(h, s, z) y = DequantizeLinear(r, s, z)
        }""",
        {"s": np.float32(0.05), "z": np.int8(0), "c": RNG.integers(-20, 20, (4, 4), dtype=np.int8)},
        {},
    ),
    "a weight turned between": (
        """(float[n,4] x) => (float[n,4] y) {
            q = QuantizeLinear<axis=0>(w, s, z) i = Identity(q) t = Transpose(i) d = DequantizeLinear<axis=1>(t, s, z)
            y = MatMul(x, d)
        }""",
        {**normal(w=(4, 4)), "s": np.array([0.02, 0.03, 0.04, 0.05], np.float32), "z": np.zeros(4, np.int8)},
        {},
    ),
    "an output beside": (
        """(float[n,4] x) => (float[n,4] y, float[n,4] z1) {
            q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) z1 = Neg(y)
        }""",
        {"s": np.float32(0.05), "z": np.uint8(100)},
        {},
    ),
    "joined": (
        """(float[n,4] x) => (float[n,8] y) {
            q = QuantizeLinear(x, s, z) r = QuantizeLinear(x, s2, z)
            c = com.microsoft.QLinearConcat<axis=1>(s, z, q, s, z, r, s2, z) y = DequantizeLinear(c, s, z)
        }""",
        {"s": np.float32(0.05), "z": np.uint8(100), "s2": np.float32(0.04)},
        {"com.microsoft": 1},
    ),
    "operators of ONNX Runtime": (
        """(float[n,2,4,4] x) => (float[n,2,3,3] y) {
            q = com.microsoft.QuantizeLinear(x, s, z) g = com.microsoft.QLinearSigmoid(q, s, z, s1, z1)
            l = com.microsoft.QLinearLeakyRelu<alpha=0.1>(q, s, z, s, z)
            m = com.microsoft.QLinearMul(g, s1, z1, l, s, z, s, z)
            a = com.microsoft.QLinearAveragePool<kernel_shape=[2,2]>(m, s, z, s, z)
            p = com.microsoft.QLinearSoftmax<axis=1, opset=13>(a, s, z, s1, z1)
            y = com.microsoft.DequantizeLinear(p, s1, z1)
        }""",
        {"s": np.float32(0.03), "z": np.uint8(128), "s1": np.float32(1 / 255), "z1": np.uint8(0)},
        {"com.microsoft": 1},
    ),
    "a dynamic product": (
        "(float[n,4] x) => (float[n,3] y) { y = com.microsoft.DynamicQuantizeMatMul(x, w, s, z, b) }",
        {
            "w": RNG.integers(-90, 90, (4, 3), dtype=np.int8), "s": np.float32(0.02), "z": np.int8(3),
            "b": RNG.standard_normal(3).astype(np.float32),
        },
        {"com.microsoft": 1},
    ),
}  # fmt: skip


def fed(model: onnx.ModelProto) -> dict[str, Any]:
    value = model.graph.input[0]
    if value.type.tensor_type.elem_type == onnx.TensorProto.INT64:
        return {value.name: np.arange(9)}
    shape = [5, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])]
    return {value.name: np.random.default_rng(3).standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_of_other_makers(name: str) -> None:
    graph, weights, domains = GRAPHS[name]
    model = build(graph, weights, domains=domains, check=False)
    found, scheme = apart(model)
    network = read_network(model)
    assert not is_quantised(found.network)
    assert [value.name for value in found.network.graph.outputs] == [value.name for value in network.graph.outputs]
    assert difference(network, found.network, fed(model)) < CLOSE
    assert difference(network, again(found, scheme), fed(model)) == 0


def test_every_reader_is_tried_here(tmp_path: Path) -> None:
    formats = ("QOperator", "QOperator of products", "dynamic", "four bits")
    models = [onnx.load(quantised(name, tmp_path / "m.onnx")) for name in formats]
    models += [build(graph, weights, domains=domains, check=False) for graph, weights, domains in GRAPHS.values()]
    tried = {(node.domain, node.op_type) for model in models for node in model.graph.node}
    assert READERS.keys() <= tried


def test_scales_that_are_one_by_chance_part() -> None:
    """Exporters store equal tensors once; another activation moves its own scale only."""
    graph, weights, _ = GRAPHS["one scale for all"]
    found, scheme = apart(build(graph, weights, check=False))
    assert len(scheme.activations) == 1  # two activations by one scale are one quantiser
    network = requantised(scheme, found.network.graph, found.network.weights, {"s": (-12.8, 12.7)})
    after = dequantised([network])[0]
    assert after.scheme is not None
    assert after.scheme.activations[0].declared(network.weights) == pytest.approx((-12.8, 12.7), abs=0.1)
    np.testing.assert_array_equal(after.network.weights["c"], found.network.weights["c"])


def with_bound(scale: float, zero: int) -> onnx.ModelProto:
    graph = """(float[n,4] x) => (float[n,4] y) {
        h = MatMul(x, w) q = QuantizeLinear(h, s, z) y = DequantizeLinear(q, s, z)
    }"""
    return build(graph, {**normal(w=(4, 4), scale=4), "s": np.float32(scale), "z": np.uint8(zero)})


BOUNDS = {
    "none": (0.1, 90, {"MatMul"}),
    "below": (0.1, 0, {"MatMul", "Relu"}),
    "both": (6 / 255, 0, {"MatMul", "Clip"}),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_that_quantisers_took_out_are_put_back(name: str) -> None:
    scale, zero, expected = BOUNDS[name]
    model = with_bound(scale, zero)
    found, _ = apart(model)
    assert {node.op_type for node in found.network.graph} == expected
    assert difference(read_network(model), found.network, fed(model)) < CLOSE


def test_bounds_are_those_of_all_networks() -> None:
    """What never passed 6 on the calibration data of one network is bounded as in the other."""
    one, other = dequantised([read_network(with_bound(6 / 255, 0)), read_network(with_bound(5 / 255, 0))])
    assert [node.op_type for node in one.network.graph] == [node.op_type for node in other.network.graph]
    assert {node.op_type for node in one.network.graph} == {"MatMul", "Clip"}
    one, other = dequantised([read_network(with_bound(0.1, 0)), read_network(with_bound(0.1, 7))])
    assert {node.op_type for each in (one, other) for node in each.network.graph} == {"MatMul"}


@pytest.mark.parametrize(("ends", "after"), [((-1.0, 6.0), ["Clip", "Relu"]), ((0.0, 6.0), ["Clip"])])
def test_a_clip_bounds_only_what_it_clips(ends: tuple[float, float], after: list[str]) -> None:
    graph = """(float[n,4] x) => (float[n,4] y) {
        h = MatMul(x, w) c = Clip(h, lo, hi) q = QuantizeLinear(c, s, z) y = DequantizeLinear(q, s, z)
    }"""
    weights: dict[str, Any] = {"s": np.float32(0.03), "z": np.uint8(0), **normal(w=(4, 4))}
    model = build(graph, {**weights, "lo": np.float32(ends[0]), "hi": np.float32(ends[1])})
    found, _ = apart(model)
    assert [node.op_type for node in found.network.graph] == ["MatMul", *after]
    assert difference(read_network(model), found.network, fed(model)) < CLOSE


@pytest.mark.parametrize("offset", [-1.0, 1.0])
def test_what_is_added_may_be_below_zero(offset: float) -> None:
    graph = """(float[n,4] x) => (float[n,4] y) {
        h = MatMul(x, w) r = Relu(h) a = Add(r, b) q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, z)
    }"""
    weights: dict[str, Any] = {"s": np.float32(0.1), "z": np.uint8(0), "b": np.full(4, offset, np.float32)}
    model = build(graph, {**normal(w=(4, 4)), **weights})
    found, _ = apart(model)
    assert [node.op_type for node in found.network.graph].count("Relu") == (2 if offset < 0 else 1)
    assert difference(read_network(model), found.network, fed(model)) < CLOSE


def test_nothing_is_put_where_it_would_do_nothing() -> None:
    graph = """(float[n,4] x) => (float[n,4] y) {
        h = MatMul(x, w) r = Relu(h) q = QuantizeLinear(r, s, z) y = DequantizeLinear(q, s, z)
    }"""
    model = build(graph, {**normal(w=(4, 4)), "s": np.float32(0.1), "z": np.uint8(0)})
    assert [node.op_type for node in apart(model)[0].network.graph] == ["MatMul", "Relu"]


def test_a_network_of_floats_is_returned_itself() -> None:
    network = read_network(build("(float[n,4] x) => (float[n,4] y) { y = MatMul(x, w) }", normal(w=(4, 4))))
    assert dequantised([network])[0].network is network


ROUNDED = {"s": np.float32(0.1), "z": np.uint8(0), "t": np.float32(0.2)}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "another scale": (
        "(float[n,4] x) => (float[n,4] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, t, z) }",
        ROUNDED,
        "(DequantizeLinear) reads integers by another scale",
    ),
    "a zero point of no numbers": (
        "(float[n,4] x) => (float[n,4] y) { q = QuantizeLinear(x, s, e) y = DequantizeLinear(q, s, e) }",
        {**ROUNDED, "e": np.zeros(0, np.uint8)},
        "(QuantizeLinear) has 0 zero points for an activation",
    ),
    "a bias beside two scales along axes": (
        """(float[n,4] x) => (float[n,3] y) {
            c = DequantizeLinear(b, b_s) q = QuantizeLinear(x, x_s) a = DequantizeLinear(q, x_s)
            v = DequantizeLinear<axis=1>(w, w_s) y = Gemm(a, v, c)
        }""",
        {
            "b": np.arange(3, dtype=np.int32),
            "b_s": np.full(1, 0.1, np.float32),
            "x_s": np.full(2, 0.1, np.float32),
            "w": np.ones((4, 3), np.int8),
            "w_s": np.ones(3, np.float32),
        },
        "(QuantizeLinear) has scales of shape [2]",
    ),
    "a computed scale": (
        "(float[n,4] x, float t) => (float[n,4] y) { q = QuantizeLinear(x, t, z) y = DequantizeLinear(q, t, z) }",
        {"z": np.uint8(0)},
        "(QuantizeLinear) has a scale or a zero point that is computed",
    ),
    "arithmetic on integers": (
        """(float[n,4] x) => (float[n,4] y) {
            q = QuantizeLinear(x, s, z) m = Max(q, q) y = DequantizeLinear(m, s, z)
        }""",
        ROUNDED,
        "(Max) computes with integers",
    ),
    "integers that come in": (
        "(uint8[n,4] x) => (float[n,4] y) { y = DequantizeLinear(x, s, z) }",
        ROUNDED,
        "(DequantizeLinear) reads integers that nothing in the model quantises",
    ),
    "integers that go out": (
        "(float[n,4] x) => (uint8[n,4] y) { y = QuantizeLinear(x, s, z) }",
        ROUNDED,
        "output 'y' is of integers",
    ),
    "an operator that is not known": (
        """(float[n,4] x) => (float[n,4] y) {
            y = com.microsoft.MatMulBnb4<K=4, N=4, block_size=16, quant_type=1>(x, q, s)
        }""",
        {"q": np.zeros(8, np.uint8), "s": np.ones(1, np.float32)},
        "(MatMulBnb4) is quantised in a way that is not known here",
    ),
    "eight-bit floats": (
        "(float[n,4] x) => (float[n,4] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        {"s": np.float32(0.1), "z": np.zeros((), ml_dtypes.float8_e4m3fn)},
        "(QuantizeLinear) rounds to float8_e4m3fn",
    ),
    "one factor for two products": (
        """(float[n,4] x) => (float[n,4] y) {
            q, a, b = DynamicQuantizeLinear(x) f = Mul(a, s)
            m = MatMulInteger(q, w, b) c = Cast<to=1>(m) g = Mul(c, f)
            n1 = MatMulInteger(q, v, b) d = Cast<to=1>(n1) h = Mul(d, f) y = Add(g, h)
        }""",
        {"w": np.ones((4, 4), np.int8), "v": np.full((4, 4), 2, np.int8), "s": np.float32(0.1)},
        "(Mul) multiplies by one scale what two weights give",
    ),
    "a scale along an axis of an activation": (
        """(float[n,4] x) => (float[n,4] y) {
            q = QuantizeLinear<axis=-1>(x, r, u) y = DequantizeLinear<axis=-1>(q, r, u)
        }""",
        {"r": np.full(4, 0.1, np.float32), "u": np.zeros(4, np.uint8)},
        "(QuantizeLinear) has scales of shape [4] for a tensor of shape []",
    ),
    "one weight along two axes": (
        """(float[n,4] x) => (float[n,4] y) {
            v = DequantizeLinear<axis=0>(c, r, u) w = DequantizeLinear<axis=1>(c, r, u) h = MatMul(x, v)
            y = MatMul(h, w)
        }""",
        {"c": np.ones((4, 4), np.int8), "r": np.array([1, 2, 3, 4], np.float32), "u": np.zeros(4, np.int8)},
        "(DequantizeLinear) reads 'c' by another scale than another node does",
    ),
    "a weight rounded along one axis and restored along another": (
        """(float[n,4] x) => (float[n,4] y) {
            q = QuantizeLinear<axis=0>(w, r, u) v = DequantizeLinear<axis=1>(q, r, u) y = MatMul(x, v)
        }""",
        {**normal(w=(4, 4)), "r": np.array([1, 2, 3, 4], np.float32), "u": np.zeros(4, np.int8)},
        "(DequantizeLinear) restores a weight along another axis than it was rounded along",
    ),
    "a weight rounded and restored in other blocks": (
        """(float[n,4] x) => (float[n,4] y) {
            q = QuantizeLinear<axis=0, block_size=2>(w, r) v = DequantizeLinear<axis=1, block_size=2>(q, r)
            y = MatMul(x, v)
        }""",
        {**normal(w=(4, 4)), "r": np.ones((2, 4), np.float32)},
        "(DequantizeLinear) has scales of shape [2, 4] for a tensor of shape [4, 4]",
    ),
    "a weight that is turned between": (
        """(float[n,4] x) => (float[n,4] y) {
            q = QuantizeLinear<axis=0>(w, r, u) t = Transpose(q) v = DequantizeLinear<axis=0>(t, r, u)
            y = MatMul(x, v)
        }""",
        {**normal(w=(4, 4)), "r": np.array([1, 2, 3, 4], np.float32), "u": np.zeros(4, np.int8)},
        "(DequantizeLinear) restores a weight along another axis than it was rounded along",
    ),
    "parts of a weight that are taken between": (
        """(float[n,4] x) => (float[n,4] y) {
            q = QuantizeLinear<axis=0>(w, r, u) t = Gather(q, i) v = DequantizeLinear<axis=0>(t, r, u)
            y = MatMul(x, v)
        }""",
        {
            **normal(w=(4, 4)), "r": np.array([1, 2, 3, 4], np.float32), "u": np.zeros(4, np.int8),
            "i": np.array([1, 0, 3, 2]),
        },
        "(Gather) moves a weight whose scales lie along an axis",
    ),
    "one packed weight by two zero points": (
        """(float[n,16] x) => (float[n,16] y) {
            h = com.microsoft.MatMulNBits<K=16, N=16, bits=4, block_size=16>(x, c, r, u)
            y = com.microsoft.MatMulNBits<K=16, N=16, bits=4, block_size=16>(h, c, r, v)
        }""",
        {
            "c": np.ones((16, 1, 8), np.uint8), "r": np.ones((16, 1), np.float32),
            "u": np.full((16, 1), 7.5, np.float32), "v": np.full((16, 1), 7.25, np.float32),
        },
        "(MatMulNBits) reads 'c' by another scale than another node does",
    ),
    "codes of a weight that go out": (
        "(float[n,4] x) => (float[n,4] y, int8[4,4] c) { w = DequantizeLinear(c, r) y = MatMul(x, w) }",
        {"c": np.ones((4, 4), np.int8), "r": np.float32(0.1)},
        "output 'c' is of integers",
    ),
    "codes that come in": (
        """(float[n,4] x, uint8[4,4] c) => (float[n,4] y) {
            q = QuantizeLinear(x, s, z) p = QLinearMatMul(q, s, z, c, s, z, t, z) y = DequantizeLinear(p, t, z)
        }""",
        ROUNDED,
        "(QLinearMatMul) reads integers that nothing in the model quantises",
    ),
    "a bias beside a scale that is computed": (
        """(float[n,4] x, float t2) => (float[n,4] y) {
            q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) b = DequantizeLinear(i, s)
            w = DequantizeLinear(c, t2) y = Gemm(d, w, b)
        }""",
        {**ROUNDED, "c": np.ones((4, 4), np.int8), "i": np.ones(4, np.int32)},
        "(DequantizeLinear) has a scale or a zero point that is computed",
    ),
    "a packed weight without a scale": (
        """(float[n,16] x) => (float[n,3] y) {
            y = com.microsoft.MatMulNBits<K=16, N=3, bits=4, block_size=16>(x, c)
        }""",
        {"c": np.zeros((3, 1, 8), np.uint8)},
        "(MatMulNBits) lacks a scale",
    ),
    "a type that there is not": (
        "(float[n,4] x) => (float[n,4] y) { q = QuantizeLinear<output_dtype=99>(x, s) y = DequantizeLinear(q, s) }",
        ROUNDED,
        "(QuantizeLinear) rounds to a type of number 99",
    ),
    "a product that is not scaled": (
        """(float[n,4] x) => (float[n,4] y) {
            q, a, b = DynamicQuantizeLinear(x) m = MatMulInteger(q, w, b) y = Cast<to=1>(m)
        }""",
        {"w": np.ones((4, 4), np.int8)},
        "(MatMulInteger) is not multiplied by the scales",
    ),
}  # fmt: skip


FITTING = {"q": (3, 2, 8), "s": (3, 2), "z": (3, 1), "b": (3,)}
"""Shapes of a packed weight of 24 inputs and 3 outputs, four bits, in blocks of 16."""


@pytest.mark.parametrize(
    ("attributes", "shapes", "told"),
    [
        ("K=24, N=3, bits=4, block_size=16", {}, None),
        ("K=24, N=3, bits=4, block_size=16", {"s": (6,), "z": (3,)}, None),
        ("K=24, N=3, bits=4, block_size=16", {"q": (3, 16)}, "codes of shape [3, 16], expected [3, 2, 8] by K=24, N=3"),
        ("K=24, N=3, bits=4, block_size=16", {"q": (2, 3, 8)}, "expected [3, 2, 8]"),
        ("K=24, N=3, bits=4, block_size=16", {"s": (2, 3)}, "scales of shape [2, 3]"),
        ("K=24, N=3, bits=4, block_size=16", {"s": (3,)}, "expected [3, 2] or [6]"),
        ("K=24, N=3, bits=4, block_size=16", {"z": (3, 2)}, "zero points of shape [3, 2]"),
        ("K=24, N=3, bits=4, block_size=16", {"b": (4,)}, "a bias of shape [4]"),
        ("K=24, N=4, bits=4, block_size=16", {}, "codes of shape [3, 2, 8], expected [4, 2, 8] by K=24, N=4"),
        ("K=40, N=3, bits=4, block_size=16", {}, "expected [3, 3, 8]"),
        ("K=24, N=3, bits=8, block_size=16", {}, "expected [3, 2, 16]"),
        ("K=24, N=3, bits=4, block_size=32", {}, "expected [3, 1, 16]"),
        ("K=24, N=3, bits=4, block_size=0", {}, "has no weight by K=24, N=3, bits=4 and block_size=0"),
        ("K=24, N=3, bits=2, block_size=3", {}, "has no weight by"),
        ("N=3, bits=4, block_size=16", {}, "has no weight by K=0"),
        ("K=24, N=-3, bits=4, block_size=16", {}, "has no weight by K=24, N=-3"),
        ("K=24, N=3, bits=3, block_size=16", {}, "or 3 bits"),
    ],
)
def test_a_packed_weight_of_another_size_is_refused_where_it_is_read(
    attributes: str, shapes: dict[str, tuple[int, ...]], told: str | None
) -> None:
    sizes = {**FITTING, **shapes}
    graph = f"(float[n,24] x) => (float[n,3] y) {{ y = com.microsoft.MatMulNBits<{attributes}>(x, q, s, z, g, b) }}"
    weights: dict[str, Any] = {name: np.ones(size, np.uint8) for name, size in sizes.items() if name in "qz"}
    weights |= {name: np.ones(size, np.float32) for name, size in sizes.items() if name in "sb"}
    model = build(graph.replace(" g,", " ,"), weights, domains={"com.microsoft": 1}, check=False)
    if told is None:
        found = dequantised([read_network(model)])[0].network
        assert [own.shape for own in found.weights.values() if own.ndim == 2] == [(24, 3)]
        return
    with pytest.raises(InputError) as refused:
        dequantised([read_network(model)])
    assert "(MatMulNBits)" in str(refused.value)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_apart_is_refused_with_its_node(name: str) -> None:
    graph, weights, told = REFUSED[name]
    model = build(graph, weights, domains={"com.microsoft": 1}, check=False)
    with pytest.raises(InputError) as refused:
        dequantised([read_network(model)])
    assert told in str(refused.value)
    assert "cannot be dequantised; " in str(refused.value)
    assert "\n" not in str(refused.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    found, scheme = apart(quantised("QDQ", tmp_path / "m.onnx"))
    own = found.network.weights
    name = scheme.weights[0].name
    with pytest.raises(InputError, match="is not finite"):
        again(found, scheme, {**own, name: np.full_like(own[name], np.inf)})


def shared_bias(dtype: Any, seed: int) -> onnx.ModelProto:
    """Two convolutions with one bias of zeros, as exporters store it."""
    bias = "p = DequantizeLinear(b, s3, z3) q1 = DequantizeLinear(b, s4, z3)" if dtype is np.int32 else ""
    one, other = ("p", "q1") if bias else ("b", "b")
    graph = f"""(float[n,3,4,4] x) => (float[n,4,4,4] y) {{
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear(w1, s1, z1) {bias}
        h = Conv(d, w, {one}) k = QuantizeLinear(h, s2, z) g = DequantizeLinear(k, s2, z)
        v = DequantizeLinear(w2, s1, z1) y = Conv(g, v, {other})
    }}"""
    rng = np.random.default_rng(seed)
    weights: dict[str, Any] = {
        "s": np.float32(0.03), "z": np.uint8(128), "s1": np.float32(0.01), "z1": np.int8(0), "s2": np.float32(0.05),
        "w1": rng.integers(-127, 127, (4, 3, 1, 1), dtype=np.int8),
        "w2": rng.integers(-127, 127, (4, 4, 1, 1), dtype=np.int8), "b": np.zeros(4, dtype),
    }  # fmt: skip
    if bias:
        weights |= {"s3": np.float32(0.03 * 0.01), "s4": np.float32(0.05 * 0.01), "z3": np.int32(0)}
    return build(graph, weights)


@pytest.mark.parametrize("dtype", [np.float32, np.int32], ids=["floats", "integers"])
def test_a_bias_that_is_stored_once_becomes_two(dtype: Any) -> None:
    """It is zero everywhere in both networks, and need not stay so."""
    parents = [read_network(shared_bias(dtype, seed)) for seed in (0, 1)]
    found = dequantised(parents)
    paired = pair([each.network for each in found])
    scheme = found[0].scheme
    assert scheme is not None
    readers = {str(node.name): node for node in paired.template.graph if node.op_type == "Conv"}
    names = [str(node.inputs[2].name) for node in readers.values() if node.inputs[2] is not None]
    assert len(set(names)) == 2
    weights = {**paired.weights[0], names[0]: np.full(4, 0.5, np.float32), names[1]: np.full(4, -2, np.float32)}
    network = requantised(scheme, paired.template.graph, weights, {})
    after = dequantised([network])[0].network
    kept = [
        np.unique(after.weights[str(node.inputs[2].name)])
        for node in after.graph
        if node.op_type == "Conv" and node.inputs[2] is not None
    ]
    assert np.concatenate(kept) == pytest.approx([0.5, -2], abs=5e-4)


def test_a_weight_that_two_nodes_scale_alike_must_stay_one() -> None:
    graph = """(float[n,4] x) => (float[n,4] y) {
        w = DequantizeLinear(c, s, z) h = MatMul(x, w) r = Relu(h) v = DequantizeLinear(c, s, z) y = MatMul(r, v)
    }"""
    weights: dict[str, Any] = {"s": np.float32(0.05), "z": np.int8(0)}
    shared = build(graph, {**weights, "c": np.ones((4, 4), np.int8)})
    found, scheme = apart(shared)
    paired = pair([found.network, apart(build(graph, {**weights, "c": np.full((4, 4), 2, np.int8)}))[0].network])
    with pytest.raises(InputError, match="shares its numbers with another in the quantised model"):
        requantised(scheme, paired.template.graph, paired.weights[0], {})


QCONV = "(float[n,3,4,4] x) => (float[n,4,4,4] y) {{ q = QuantizeLinear(x, s, z) {} y = DequantizeLinear(r, s2, z) }}"
CODES = RNG.integers(-63, 64, (4, 3, 1, 1), dtype=np.int8)
ONES: dict[str, Any] = {"s": np.float32(0.03), "z": np.uint8(128), "s2": np.float32(0.05)}
BIAS = np.array([5000, -900, 700, 80], np.int32)
CHANGED: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, tuple[float, float]]]] = {
    "a scale of two activations with other zero points": (
        """(float[n,4] x) => (float[n,4] y) {
            a = MatMul(x, w) r = Relu(a) q = QuantizeLinear(r, s, z) d = DequantizeLinear(q, s, z) h = MatMul(d, v)
            k = QuantizeLinear(h, s, m) y = DequantizeLinear(k, s, m)
        }""",
        {"s": np.float32(0.05), "z": np.uint8(0), "m": np.uint8(128), **normal(w=(4, 4), v=(4, 4))},
        {"v": 0.1},
        {"s/1": (-1.5, 1.5)},
    ),
    "zero points of one content": (
        """(float[n,4] x) => (float[n,4] y) {
            a = MatMul(x, w) q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, m)
        }""",
        {"s": np.float32(0.05), "z": np.uint8(100), "m": np.uint8(100), **normal(w=(4, 4))},
        {"w": 2},
        {"s": (-15.0, 10.0)},
    ),
    "a scale of two weights, with biases": (
        QCONV.format(
            "k = QLinearConv(q, s, z, w1, s1, z1, s2, z, b1) r = QLinearConv(k, s2, z, w2, s1, z1, s2, z, b2)"
        ),
        {
            **ONES, "s1": np.float32(0.005), "z1": np.int8(0), "w1": CODES, "b1": BIAS, "b2": BIAS,
            "w2": RNG.integers(-63, 64, (4, 4, 1, 1), dtype=np.int8),
        },
        {"w1": 0.3},
        {},
    ),
    "a scale that is a factor too": (
        "(float[n,4] x) => (float[n,4] y) { w = DequantizeLinear(c, s, z) a = MatMul(x, w) y = Mul(a, s) }",
        {"s": np.float32(0.01), "z": np.int8(0), "c": RNG.integers(-127, 127, (4, 4), dtype=np.int8)},
        {"c": 3},
        {},
    ),
    "one zero point for scales by channel": (
        QCONV.format("r = QLinearConv(q, s, z, w, s1, z1, s2, z, b)"),
        {**ONES, "s1": np.full(4, 0.01, np.float32), "z1": np.int8(0), "w": CODES, "b": BIAS},
        {"w": 0.7},
        {},
    ),
    "a channel that is all but dead": (
        QCONV.format("r = QLinearConv(q, s, z, w, s1, z1, s2, z, b)"),
        {**ONES, "s1": np.full(4, 0.01, np.float32), "z1": np.zeros(4, np.int8), "w": CODES, "b": BIAS},
        {"w": np.array([1e-12, 1, 1, 1]).reshape(4, 1, 1, 1)},
        {},
    ),
    "a bias of two dynamic products": (
        """(float[n,4] x) => (float[n,4] y) {
            h = com.microsoft.DynamicQuantizeMatMul(x, w, s, z, b)
            y = com.microsoft.DynamicQuantizeMatMul(h, v, t, z, b)
        }""",
        {
            "w": RNG.integers(-60, 60, (4, 4), dtype=np.int8), "v": RNG.integers(-60, 60, (4, 4), dtype=np.int8),
            "s": np.float32(0.02), "t": np.float32(0.01), "z": np.int8(0), "b": np.ones(4, np.float32),
        },
        {"b": 5},
        {},
    ),
    "a zero point of two weights that stand in front": (
        """(float[5,4] x) => (float[2,4] y) {
            q, a, b = DynamicQuantizeLinear(x) m = MatMulInteger(w, q, z, b) e = Cast<to=1>(m) f = Mul(a, s)
            h = Mul(e, f) p, c, d = DynamicQuantizeLinear(h) i = MatMulInteger(v, p, z, d) j = Cast<to=1>(i)
            k = Mul(c, t) y = Mul(j, k)
        }""",
        {
            "w": RNG.integers(100, 200, (3, 5), dtype=np.uint8), "v": RNG.integers(0, 255, (2, 3), dtype=np.uint8),
            "z": np.uint8(100), "s": np.float32(0.02), "t": np.float32(0.01),
        },
        {"w": -1},
        {},
    ),
    "codes that reach further on one side": (
        """(float[n,16] x) => (float[n,3] y) {
            y = com.microsoft.MatMulNBits<K=16, N=3, bits=2, block_size=16>(x, q, s)
        }""",
        {"q": RNG.integers(0, 256, (3, 1, 4), dtype=np.uint8), "s": np.full((3, 1), 0.1, np.float32)},
        {"q": 1.5},
        {},
    ),
    "zero points between codes": (
        """(float[n,16] x) => (float[n,3] y) {
            y = com.microsoft.MatMulNBits<K=16, N=3, bits=4, block_size=16>(x, q, s, z)
        }""",
        {
            "q": np.array([0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE] * 3, np.uint8).reshape(3, 1, 8),
            "s": np.full((3, 1), 0.1, np.float32), "z": np.full((3, 1), 7.5, np.float32),
        },
        {"q": 1.5},
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_other_numbers_are_those_that_the_quantised_network_computes_with(name: str) -> None:
    graph, weights, factors, ranges = CHANGED[name]
    model = build(graph, weights, domains={"com.microsoft": 1}, check=False)
    found, scheme = apart(model)
    own = {key: found.network.weights[key] for key in found.network.weights}
    own |= {key: (own[key] * factor).astype(np.float32) for key, factor in factors.items()}
    floats = found.network.model.clone()
    for key in factors:
        floats.graph.initializers[key].const_value = ir.tensor(own[key])
    network = requantised(scheme, found.network.graph, own, ranges)
    expected, given = (
        np.concatenate([each.ravel() for each in answers(m, fed(model))]) for m in (floats, network.model)
    )
    assert np.linalg.norm(expected - given) < CLOSE * np.linalg.norm(expected)


def test_numbers_below_zero_have_no_codes_without_a_zero_point() -> None:
    graph = "(float[n,4] x) => (float[n,4] y) { w = DequantizeLinear(c, s) y = MatMul(x, w) }"
    found, scheme = apart(build(graph, {"s": np.float32(0.01), "c": np.full((4, 4), 200, np.uint8)}))
    with pytest.raises(InputError, match="initializer 'c': the merged weight has numbers below 0"):
        again(found, scheme, {"c": np.full((4, 4), -1, np.float32)})
