"""Inputs from nothing but declared shapes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge.errors import InputError, UsageError
from onnxmerge.model import read_network, synthesize
from tests import graphs
from tests.graphs import normal

build = functools.partial(graphs.build, check=False)  # most outputs here are written without their types


def shapes(model: onnx.ModelProto, **options: Any) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in synthesize(read_network(model), **options).items()}


def test_keeps_declared_sizes_and_takes_a_batch_of_two() -> None:
    model = build("(float[batch,4] x, float[3] s) => (y, t) { y = Relu(x)  t = Relu(s) }")
    assert shapes(model) == {"x": (2, 4), "s": (3,)}
    assert shapes(model, batch=5) == {"x": (5, 4), "s": (3,)}


def test_falls_back_to_a_batch_of_one() -> None:
    model = build("(float[n,4] x) => (y) { s = Constant<value_ints=[1,4]>()  y = Reshape(x, s) }")
    assert shapes(model) == {"x": (1, 4)}


def test_finds_the_image_size_that_a_head_needs() -> None:
    model = build(
        "(float[n,3,h,w] x) => (y) {"
        " c = Conv<kernel_shape=[32,32], strides=[32,32]>(x, k)  f = Flatten(c)  y = MatMul(f, m) }",
        normal(k=(2, 3, 32, 32), m=(2 * 49, 5)),
    )
    assert shapes(model) == {"x": (2, 3, 224, 224)}


def test_finds_a_signal_that_is_long_enough() -> None:
    model = build(
        "(float[n,samples] x) => (y) { a = Constant<value_ints=[1]>()  u = Unsqueeze(x, a)  y = Conv(u, k) }",
        normal(k=(2, 1, 2000)),
    )
    assert shapes(model)["x"] == (2, 4096)


def test_axes_of_one_name_are_equal() -> None:
    model = build(
        "(int64[batch,seq] i, float[batch,seq] m) => (y) {"
        " e = Gather(w, i)  s = ReduceSum<keepdims=0>(e, a)  y = Mul(s, m) }",
        {**normal(w=(7, 4)), "a": [2]},
    )
    sample = synthesize(read_network(model))
    assert sample["i"].shape == sample["m"].shape == (2, 16)
    assert 0 <= sample["i"].min() < sample["i"].max() < 7


def test_sums_of_named_axes() -> None:
    model = build(
        "(float[batch,past] p, float[batch,new] x, float[batch,total] m) => (y) {"
        " c = Concat<axis=1>(p, x)  y = Mul(c, m) }"
    )
    model.graph.input[2].type.tensor_type.shape.dim[1].dim_param = "past + new"
    found = shapes(model)
    assert found["m"][1] == found["p"][1] + found["x"][1]


def test_axes_that_differ_are_searched() -> None:
    model = build(
        "(float[n,a] x, float[n,b] y) => (z) { w = MatMul(x, k)  v = MatMul(y, l)  z = Add(w, v) }",
        normal(k=(16, 3), l=(256, 3)),
    )
    assert shapes(model) == {"x": (2, 16), "y": (2, 256)}


def test_recurrent_states_share_the_batch() -> None:
    model = build(
        "(float[?,?] x, float[2,?,4] s) => (y) {"
        " i = Constant<value_int=0>()  h = Gather(s, i)  m = Constant<value_ints=[1]>() "
        " r = ReduceMean(x, m)  y = Add(h, r) }".replace("?", "q"),
    )
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.Clear()
    found = shapes(model)
    assert found["s"][1] == found["x"][0] == 2


def test_values_by_kind() -> None:
    model = build(
        "(float[n,4] x, int64[n,4] attention_mask, bool[n] flag, uint8[n,4] pixels, int64 sr, float fmin, float fmax)"
        " => (a, b, c, d, e, f, g) { a = Identity(x)  b = Identity(attention_mask)  c = Identity(flag) "
        " d = Identity(pixels)  e = Identity(sr)  f = Identity(fmin)  g = Identity(fmax) }"
    )
    sample = synthesize(read_network(model))
    assert sample["x"].std() > 0.1
    assert (sample["attention_mask"] == 1).all()
    assert sample["flag"].all()
    assert sample["pixels"].max() > 1
    assert sample["sr"] == 16000
    assert sample["fmin"] < sample["fmax"]
    again = synthesize(read_network(model))
    assert all((again[name] == array).all() for name, array in sample.items())
    assert not np.array_equal(synthesize(read_network(model), seed=1)["x"], sample["x"])


def test_given_shapes_bind_the_axes_of_other_inputs() -> None:
    network = read_network(build("(float[n,s] x, float[n,s] y) => (z) { z = Add(x, y) }"))
    found = synthesize(network, shapes={"x": (3, 11)})
    assert found["y"].shape == (3, 11)
    with pytest.raises(UsageError, match="no input 'q'; it takes 'x', 'y'"):
        synthesize(network, shapes={"q": (1,)})
    with pytest.raises(UsageError, match="input 'x' takes"):
        synthesize(network, shapes={"x": (3,)})


def test_says_what_fails_when_nothing_runs() -> None:
    model = build("(float[n,3] x) => (y) { s = Constant<value_ints=[7,11]>()  [shaper] y = Reshape(x, s) }")
    with pytest.raises(InputError, match=r"with x:\[2, 3\] it says: .*'shaper'.* --input NAME:SHAPE") as caught:
        synthesize(read_network(model))
    assert "\n" not in str(caught.value)
