"""Merging a model with itself, its units in whatever order, gives it back: by every method, repair and refinement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.api.law import EXCEPTIONS, SETTINGS, broken, model_of, moved
from tests.api.law_models import SHARED, Case, cases, real, zoo
from tests.graphs import batchnorm, build, normal

EMBEDDING = """(float[n,8] x) => (float[n,24] y) {
    h = Gemm<transB=1>(x, w1, b1)
    r = Relu(h)
    k = Gemm<transB=1>(r, w2, b2)
    q = Relu(k)
    y = MatMul(q, w3)
}"""

FOLDED = """(float[n,3,6,6] x) => (float[n,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    b = Relu(a)
    c = Conv<pads=[1,1,1,1]>(b, w2, b2)
    d = Add(c, b)
    e = Relu(d)
    g = GlobalAveragePool(e)
    f = Flatten(g)
    y = Gemm<transB=1>(f, w3, b3)
}"""

KEPT = """(float[n,3,6,6] x) => (float[n,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1)
    p = BatchNormalization(a, n1_scale, n1_bias, n1_mean, n1_var)
    b = Relu(p)
    q = BatchNormalization(b, n2_scale, n2_bias, n2_mean, n2_var)
    c = Conv<pads=[1,1,1,1]>(q, w2)
    d = Add(c, b)
    e = Relu(d)
    g = GlobalAveragePool(e)
    f = Flatten(g)
    y = Gemm<transB=1>(f, w3, b3)
}"""

ATTENTION = """(float[n,6,4] x) => (float[n,6,16] y) {
    e = MatMul(x, we)
    n1 = LayerNormalization(e, g, gb)
    q = MatMul(n1, wq)  k = MatMul(n1, wk)  v = MatMul(n1, wv)
    q4 = Reshape(q, heads)  k4 = Reshape(k, heads)  v4 = Reshape(v, heads)
    qh = Transpose<perm=[0,2,1,3]>(q4)  kh = Transpose<perm=[0,2,3,1]>(k4)  vh = Transpose<perm=[0,2,1,3]>(v4)
    s = MatMul(qh, kh)
    t = Softmax(s)
    o = MatMul(t, vh)
    ot = Transpose<perm=[0,2,1,3]>(o)
    of = Reshape(ot, flat)
    p = MatMul(of, wo)
    z = Add(p, e)
    y = MatMul(z, wy)
}"""


def embedding() -> onnx.ModelProto:
    return build(EMBEDDING, normal(w1=(12, 8), b1=(12,), w2=(10, 12), b2=(10,), w3=(10, 24)))


def folded() -> onnx.ModelProto:
    """The data wakes none of two units."""
    weights = normal(w1=(8, 3, 3, 3), b1=(8,), w2=(8, 8, 3, 3), b2=(8,), w3=(5, 8), b3=(5,), scale=0.3)
    weights["b1"][:2] = -50
    weights["w2"][:2] = 0
    weights["b2"][:2] = -1
    return build(FOLDED, weights)


def kept() -> onnx.ModelProto:
    """Its statistics are not those of the data, and one BatchNormalization stands before its convolution."""
    weights = normal(w1=(8, 3, 3, 3), w2=(8, 8, 3, 3), w3=(5, 8), b3=(5,), scale=0.3)
    return build(KEPT, {**weights, **batchnorm("n1", 8), **batchnorm("n2", 8, seed=1)})


def attention() -> onnx.ModelProto:
    shapes = {"heads": np.array([0, 0, 2, 4]), "flat": np.array([0, 0, 8])}
    square = normal(wq=(8, 8), wk=(8, 8), wv=(8, 8), wo=(8, 8), scale=0.5)
    return build(ATTENTION, {**normal(we=(4, 8), g=(8,), gb=(8,), wy=(8, 16), seed=1), **square, **shapes})


BRANCHES = """(float[n,6] x) => (float[n,3] y, float z) {
    a = MatMul(x, w1)
    b = Relu(a)
    z = ReduceMean<keepdims=0>(b)
    c = Greater(z, limit)
    d = If (c) <then_branch = one () => (float[n,5] t) { h = MatMul(b, u1) r = Relu(h) t = MatMul(r, u2) },
                else_branch = two () => (float[n,5] e) { e = MatMul(b, v1) }>
    y = MatMul(d, w2)
}"""

STEPS = """(float[n,9,4] x) => (float[n,2] y) {
    e = MatMul(x, we)
    p = ReduceMean<axes=[1], keepdims=0>(e)
    r = Sub(p, p)
    h0 = MatMul(r, wh)
    last = Scan<num_scan_inputs=1, scan_input_axes=[1], body=step (float[n,5] h, float[n,6] xt) => (float[n,5] hn)
        { a = MatMul(xt, u) b = MatMul(h, v) c = Add(a, b) hn = Tanh(c) }>(h0, e)
    y = MatMul(last, w)
}"""

TOKENS = """(int64[n,6] x) => (float[n,6,5] y) {
    e = Gather(table, x)
    h = MatMul(e, w1)
    r = Relu(h)
    y = MatMul(r, w2)
}"""


def branches() -> onnx.ModelProto:
    weights = normal(w1=(6, 8), u1=(8, 7), u2=(7, 5), v1=(8, 5), w2=(5, 3))
    return build(BRANCHES, {**weights, "limit": np.array(0.5, np.float32)}, check=False)


def steps() -> onnx.ModelProto:
    return build(STEPS, normal(we=(4, 6), wh=(6, 5), u=(6, 5), v=(5, 5), w=(5, 2)), opset=11)


def tokens() -> onnx.ModelProto:
    return build(TOKENS, normal(table=(20, 64), w1=(64, 12), w2=(12, 5)))


def unsigned() -> onnx.ModelProto:
    """Its statistics are not those of the data, and some of its weights are -0."""
    model = kept()
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[:, 0] = -0.0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


FAST = ("mudsc-align", "rebasin", "zipit", "repair", "regmean", "ls", "member ls")


SMALL = [embedding, folded, kept, attention, branches, steps, unsigned]


@pytest.mark.parametrize("build_model", SMALL, ids=lambda each: each.__name__)
def test_small_models_come_back_from_permuted_copies(build_model: Callable[[], onnx.ModelProto]) -> None:
    assert broken(moved(model_of(build_model(), samples=40), permuted=True, settings=FAST)) == {}


def test_units_that_data_cannot_tell_apart_are_not_merged_inside_a_model() -> None:
    """Of twenty tokens the data has two, so that units of the embedding correlate by 1 or -1."""
    feeds = [{"x": np.random.default_rng(seed).integers(0, 2, (4, 6))} for seed in range(6)]
    model = replace(model_of(tokens(), feeds), tests=[{"x": np.arange(20)[:18].reshape(3, 6)}])
    assert broken(moved(model, permuted=False, settings=["zipit"])) == {}
    assert broken(moved(model, permuted=True, settings=["zipit", "zipit ls"])) == {}


def check(case: Case) -> None:
    model = case.load()
    found = {(case.name, setting) for permuted in (False, True) for setting in broken(moved(model, permuted=permuted))}
    assert found == {key for key in EXCEPTIONS if key[0] == case.name}


@pytest.mark.slow
@pytest.mark.parametrize("case", zoo(), ids=lambda case: case.name)
def test_a_third_of_the_zoo_comes_back(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", real(SHARED), ids=lambda case: case.name)
def test_the_corpus_and_the_pairs_come_back(case: Case) -> None:
    check(case)


def test_exceptions_are_of_models_that_are_held_to_the_law(shared: Path) -> None:
    assert {name for name, _ in EXCEPTIONS} <= {case.name for case in cases(shared)}
    assert {setting for _, setting in EXCEPTIONS} <= {*SETTINGS}
