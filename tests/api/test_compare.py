"""Two files of one network: structure, function, and where they part."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import onnxmerge
from onnxmerge.types import Array
from tests.checking.broken import MLP, mlp, saved, weights, with_noise
from tests.command_line import Cli
from tests.graphs import build


def test_a_copy() -> None:
    found = onnxmerge.compare(mlp(), mlp())
    assert (found.structure, found.same, found.reordered, found.first_difference) == (None, True, False, None)


def test_units_in_another_order() -> None:
    order, own = np.array([3, 1, 4, 0, 2]), weights()
    found = onnxmerge.compare(mlp(), mlp(w=own["w"][order], b=own["b"][order], v=own["v"][:, order]))
    assert (found.structure, found.same, found.reordered) == (None, True, True)
    assert found.first_difference is None
    assert max(each.relative for each in found.weights) < 1e-6


def test_a_layer_that_drifts() -> None:
    found = onnxmerge.compare(mlp(), with_noise(0.1)())
    assert (found.structure, found.same) == (None, False)
    assert found.first_difference is not None
    assert found.first_difference.tensor == "y"
    assert [each.name for each in found.weights if each.relative > 1e-6] == ["v"]


def test_another_structure_of_one_function() -> None:
    found = onnxmerge.compare(mlp(), mlp(MLP.replace("r = Relu(h)", "k = Relu(h)  r = Relu(k)")))
    assert found.structure is not None
    assert "differ in structure" in found.structure
    assert [(each.tensor, each.differs) for each in found.layers] == [("h", False), ("r", False), ("y", False)]
    assert found.same


QUANTISED = """(float[n,4] x) => (float[n,3] y) {
    h = Gemm<transB=1>(x, w, b)  q = QuantizeLinear(h, scale)  d = DequantizeLinear(q, scale)
    r = Relu(d)  y = Gemm<transB=1>(r, v, c)
}"""
HALVED = """(float[n,4] x) => (float[n,3] y) {
    x16 = Cast<to=10>(x)  h = Gemm<transB=1>(x16, w, b)  r = Relu(h)  y16 = Gemm<transB=1>(r, v, c)  y = Cast<to=1>(y16)
}"""
NAMESAKES = """(float[n,4] x) => (float[n,3] y) {
    r = Gemm<transB=1>(x, w, b)  h = ArgMax<axis=1>(r)  i = Cast<to=1>(h)
    s = Relu(r)  g = Gemm<transB=1>(s, v, c)  y = Add(g, i)
}"""


@pytest.mark.parametrize(
    ("text", "dtype", "tensors", "parts"),
    [
        (QUANTISED, np.float32, ["h", "r", "y"], "r"),  # the quantiser stands behind h
        (HALVED, np.float16, ["h", "r", "y"], None),  # all within what float16 can tell
        (NAMESAKES, np.float32, ["r", "y"], "r"),  # what is called r is another tensor, h none that compares
    ],
)
def test_layers_of_another_structure_are_compared_by_name(
    text: str, dtype: type, tensors: list[str], parts: str | None
) -> None:
    own: dict[str, Array] = {name: array.astype(dtype) for name, array in weights().items()}
    other = build(text, {**own, "scale": np.array(0.2, np.float32)}, opset=17, ir_version=8, check=False)
    found = onnxmerge.compare(mlp(), other)
    assert found.structure is not None
    assert [each.tensor for each in found.layers] == tensors
    assert found.same == (parts is None)
    assert (None if found.first_difference is None else found.first_difference.tensor) == parts


def test_outputs_that_cannot_be_compared() -> None:
    other = mlp(MLP.replace("[n,3]", "[n,2]"), v=weights()["v"][:2], c=weights()["c"][:2])
    found = onnxmerge.compare(mlp(), other)
    assert not found.same
    assert found.failure is not None
    assert "shape" in found.failure


INTEGERS = "(float[n,4] x) => (int64[n] y) { y = ArgMax<axis=1, keepdims=0>(x) }"
BOTH = "(float[n,4] x) => (float[n,4] r, int64[n] y) { r = Relu(x)  y = ArgMax<axis=1, keepdims=0>(x) }"
TEXT = "(float[n,4] x) => (string[n,4] y) { y = Cast<to=8>(x) }"
NUMBER = "(float[n,4] x) => (double[n,4] y) { y = Cast<to=11>(x) }"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (INTEGERS, INTEGERS, True),
        (INTEGERS, INTEGERS.replace("ArgMax", "ArgMin"), False),
        (BOTH, BOTH, True),
        (BOTH, BOTH.replace("ArgMax", "ArgMin"), False),
        (TEXT, TEXT, True),
        (TEXT, NUMBER, False),
        (NUMBER, TEXT, False),
    ],
)
def test_outputs_that_are_no_floats_must_be_equal(one: str, other: str, same: bool) -> None:  # noqa: FBT001
    data = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    models = [build(text, opset=17, ir_version=8, check=False) for text in (one, other)]
    assert onnxmerge.compare(*models, data=data).same == same


def test_the_command(tmp_path: Path, cli: Cli) -> None:
    saved(mlp(), tmp_path, "a.onnx")
    saved(with_noise(0.1)(), tmp_path, "b.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32))
    assert cli("compare", "a.onnx", "a.onnx").returncode == 0
    ended = cli("compare", "a.onnx", "b.onnx", "--data", "x.npy")
    assert ended.returncode == 3
    assert "they part at     y (Gemm)" in ended.stdout
    told = json.loads(cli("compare", "a.onnx", "b.onnx", "--json").stdout)
    assert told["first_difference"]["tensor"] == "y"
    assert cli("compare", "a.onnx", "c.onnx").returncode == 1
