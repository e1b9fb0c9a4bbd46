"""Shapes, types and values of one run."""

from __future__ import annotations

import functools
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import ArrayLike

from onnxmerge.errors import InputError
from onnxmerge.model import read_network, trace
from tests import graphs
from tests.graphs import normal

build = functools.partial(graphs.build, check=False)  # most outputs here are written without their types

Weights = dict[str, ArrayLike]

HEADS = """(float[n,6] x) => (float[n,2,3] y, float[4] half) {
    s = Shape<start=0, end=1>(x)
    rest = Constant<value_ints=[2,3]>()
    target = Concat<axis=0>(s, rest)
    h = MatMul(x, w)
    y = Reshape(h, target)
    four = Constant<value_ints=[4]>()
    half = ConstantOfShape<value = float[1] {0.5}>(four)
}"""


def test_notes_shapes_types_and_values() -> None:
    found = trace(read_network(build(HEADS, normal(w=(6, 6)))))
    assert found.sample["x"].shape == (2, 6)
    assert found.shapes == {
        "x": (2, 6), "w": (6, 6), "rest": (2,), "four": (1,), "s": (1,), "target": (3,),
        "h": (2, 6), "y": (2, 2, 3), "half": (4,),
    }  # fmt: skip
    assert found.dtypes["h"] == np.float32
    assert found.dtypes["target"] == np.int64
    assert found.values["target"].tolist() == [2, 2, 3]
    assert found.values["half"].tolist() == [0.5] * 4
    assert set(found.values) == {"rest", "four", "s", "target", "half"} == found.constants


def test_takes_a_sample() -> None:
    network = read_network(build(HEADS, normal(w=(6, 6))))
    assert trace(network, {"x": np.zeros((5, 6), np.float32)}).shapes["y"] == (5, 2, 3)
    with pytest.raises(InputError, match="does not run"):
        trace(network, {"x": np.zeros((5, 7), np.float32)})


def test_what_depends_on_inputs_or_weights_is_not_constant() -> None:
    graph = """(int64[n] i, float[n,3] x) => (a, b, r, t) {
        a = Add(i, one)  f = Cast<to=7>(w)  b = Add(f, one)
        s = Shape(x)  r = RandomNormalLike<dtype=1>(two)  sized = Cast<to=1>(s)  t = Sqrt(sized)
    }"""
    weights: Weights = {**normal(w=(1,)), "one": [1], "two": np.array([2], np.int64)}
    found = trace(read_network(build(graph, weights)))
    assert found.constants == {"one", "two", "s", "sized", "t"}
    assert {"i", "a", "f", "b"} <= set(found.values)


def test_elements_that_are_constant_beside_others_that_are_not() -> None:
    graph = """(float[n,3] x) => (a, b, c, d) {
        m = ReduceMax<keepdims=0>(x)  i = Cast<to=7>(m)  one = Unsqueeze(i, zero)
        a = Concat<axis=0>(one, five, zero)  b = Slice(a, last, least, zero, last)  c = Add(a, b)
        d = Gather(a, i)
    }"""
    weights: Weights = {"five": [5], "zero": [0], "last": [-1], "least": [-(2**63)]}
    found = trace(read_network(build(graph, weights)), {"x": np.ones((2, 3), np.float32)})
    assert found.partly == {"a": (None, 5, 0), "b": (0, 5, None), "c": (None, 10, None)}


def test_quantised_weights_are_weights() -> None:
    graph = "(float[n,4] x) => (y) { w = DequantizeLinear(q, scale, zero)  y = MatMul(x, w) }"
    weights: Weights = {"q": np.ones((4, 3), np.int8), "scale": np.float32(0.5), "zero": np.int8(0)}
    found = trace(read_network(build(graph, weights)))
    assert not found.constants
    assert found.shapes["w"] == (4, 3)


def test_half_precision() -> None:
    graph = "({}[n,4] x) => ({}[n,3] y) {{ h = MatMul(x, w)  s = Shape(h)  z = ConstantOfShape(s)  y = Relu(h) }}"
    for name, dtype in (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)):
        weights = {"w": normal(w=(4, 3))["w"].astype(dtype)}
        found = trace(read_network(build(graph.format(name, name), weights)))
        assert {found.dtypes[value] for value in ("x", "w", "h", "y")} == {np.dtype(dtype)}


def test_only_the_main_graph_and_only_tensors() -> None:
    graph = """(float[n,4] x, bool c) => (float[n,4] y, float[n,4] z) {
        y = If<
            then_branch = a () => (float[n,4] t) { t = Mul(x, w) }, else_branch = b () => (float[n,4] e) { e = Neg(x) }
        >(c)
        many = SequenceConstruct(x, y)
        zero = Constant<value_int=0>()
        z = SequenceAt(many, zero)
    }"""
    found = trace(read_network(build(graph, normal(w=(4,)))))
    assert set(found.shapes) == {"x", "c", "w", "zero", "y", "z"}


@pytest.mark.slow
def test_every_model_of_the_corpus_traces(shared: Path) -> None:
    files = sorted((shared / "corpus").glob("*.onnx"))
    assert files
    for file in files:
        if file.name.startswith("fam_dnsmos"):  # runs too, but for seconds
            continue
        network = read_network(file)
        found = trace(network)
        named = {value.name for node in network.graph for value in node.outputs if value.name}
        assert named <= set(found.shapes), file.name
        assert found.constants <= set(found.values), file.name
