"""Initializers as matrices [out, in], whichever way a graph stores and reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxmerge.model.matrices import layer_depths, matrix_layouts
from tests.graphs import build, execute, normal
from tests.merging.networks import network

ROWS, IMAGE = "float[n,4] x", "float[n,4,5,5] x"
GRAPH = "({inputs}) => (float[{rank}] y) {{ {body} }}"
RNG = np.random.default_rng(0)

PLAIN = {
    "Gemm": ("y = Gemm(x, w)", (4, 6)),
    "Gemm, transposed": ("y = Gemm<transB=1>(x, w)", (6, 4)),
    "MatMul": ("y = MatMul(x, w)", (4, 6)),
    "through Transpose": ("t = Transpose<perm=[1,0]>(w) y = MatMul(x, t)", (6, 4)),
    "through Identity": ("t = Identity(w) y = MatMul(x, t)", (4, 6)),
    "on the left": ("t = Transpose<perm=[1,0]>(x) u = MatMul(w, t) y = Transpose<perm=[1,0]>(u)", (6, 4)),
    "on the left, Gemm": ("t = Transpose<perm=[1,0]>(x) u = Gemm<transA=1>(w, t) y = Transpose<perm=[1,0]>(u)", (4, 6)),
}


@pytest.mark.parametrize(("body", "shape"), PLAIN.values(), ids=PLAIN)
def test_a_weight_is_what_rows_are_multiplied_by(body: str, shape: tuple[int, ...]) -> None:
    weights = normal(w=shape)
    graph = GRAPH.format(inputs=ROWS, rank="n,6", body=body)
    layout = matrix_layouts(network(graph, weights).graph)["w"]
    matrix = layout.matrix(weights["w"], 0)
    assert layout.sizes(weights["w"].shape) == (1, *matrix.shape)
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(execute(build(graph, weights), {"x": x})["y"], x @ matrix.T, atol=1e-5)
    np.testing.assert_array_equal(layout.restored(matrix[None], shape), weights["w"])


STACKED: dict[str, tuple[str, str, tuple[int, ...], tuple[int, int, int]]] = {
    "Conv": (IMAGE, "y = Conv(x, w)", (6, 4, 3, 3), (1, 6, 36)),
    "grouped Conv": (IMAGE, "y = Conv<group=2>(x, w)", (6, 2, 3, 3), (2, 3, 18)),
    "depthwise Conv": (IMAGE, "y = Conv<group=4>(x, w)", (4, 1, 3, 3), (1, 4, 9)),
    "ConvTranspose": (IMAGE, "y = ConvTranspose(x, w)", (4, 6, 3, 3), (1, 6, 36)),
    "grouped ConvTranspose": (IMAGE, "y = ConvTranspose<group=2>(x, w)", (4, 3, 3, 3), (2, 3, 18)),
    "depthwise ConvTranspose": (IMAGE, "y = ConvTranspose<group=4>(x, w)", (4, 2, 3, 3), (1, 8, 9)),
    "a matrix for each head": (IMAGE, "y = MatMul(x, w)", (4, 5, 7), (4, 7, 5)),
    "LSTM": ("float[t,n,4] x", "y, h, c = LSTM<hidden_size=5>(x, w, r)", (1, 20, 4), (1, 20, 4)),
}


@pytest.mark.parametrize(("inputs", "body", "shape", "stack"), STACKED.values(), ids=STACKED)
def test_several_matrices_in_one_initializer(
    inputs: str, body: str, shape: tuple[int, ...], stack: tuple[int, int, int]
) -> None:
    weights = {**normal(w=shape), **(normal(r=(1, 20, 5)) if "LSTM" in body else {})}
    layout = matrix_layouts(network(GRAPH.format(inputs=inputs, rank="a,b,c,d", body=body), weights).graph)["w"]
    assert layout.sizes(shape) == stack
    found = np.stack([layout.matrix(weights["w"], index) for index in range(stack[0])])
    assert found.shape == stack
    np.testing.assert_array_equal(layout.restored(found, shape), weights["w"])


def test_groups_have_channels_of_their_own() -> None:
    weights: dict[str, Any] = normal(w=(6, 2, 1, 1), v=(6, 2, 1, 1))
    body = "h = Conv<group=2>(x, w) y = ConvTranspose<group=2>(h, v)"
    layouts = matrix_layouts(network(GRAPH.format(inputs=IMAGE, rank="a,b,c,d", body=body), weights).graph)
    conv, transposed = (layouts[name].matrix(weights[name], 1) for name in "wv")
    np.testing.assert_array_equal(conv, weights["w"][3:, :, 0, 0])
    np.testing.assert_array_equal(transposed, weights["v"][3:, :, 0, 0].T)


OTHERS = {
    "an embedding": ("int64[n] x", "y = Gather(w, x)", (4, 6)),
    "an embedding that the output layer reads": (
        "int64[n] x",
        "h = Gather(w, x) t = Transpose<perm=[1,0]>(w) y = MatMul(h, t)",
        (4, 6),
    ),
    "read both ways": (ROWS, "h = MatMul(x, w) y = Gemm<transB=1>(h, w)", (4, 4)),
    "a bias of two axes": (ROWS, "y = Add(x, w)", (1, 4)),
    "a position table": (IMAGE, "y = Add(x, w)", (5, 5)),
}


@pytest.mark.parametrize(("inputs", "body", "shape"), OTHERS.values(), ids=OTHERS)
def test_what_is_no_matrix(inputs: str, body: str, shape: tuple[int, ...]) -> None:
    graph = GRAPH.format(inputs=inputs, rank="a,b" if inputs != IMAGE else "a,b,c,d", body=body)
    assert matrix_layouts(network(graph, normal(w=shape)).graph) == {}


def test_depth_counts_layers_from_the_first_to_the_last() -> None:
    graph = """(float[n,4] x) => (float[n,4] y) {
        c = Mul(x, s) h = MatMul(c, w) g = Add(h, b) t = Transpose<perm=[1,0]>(v) k = MatMul(g, t) y = Gemm(k, u, e)
    }"""
    weights = normal(s=(4,), w=(4, 4), b=(4,), v=(4, 4), u=(4, 4), e=(4,))
    found = layer_depths(network(graph, weights).graph)
    assert found == {"s": 0, "w": 0, "b": 0, "v": 0.5, "u": 1, "e": 1}
