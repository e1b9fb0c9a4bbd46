"""Which layers are found, and that scaling and shifting their weights does to the output what it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.model.linear_layers import linear_layers
from tests.graphs import normal
from tests.merging.networks import network, values

IMAGE = "float[n,4,5,5] x"
ROWS = "float[n,4] x"

CASES = {
    "Conv": (IMAGE, "y = Conv(x, w, b)", {"w": (6, 4, 3, 3), "b": (6,)}),
    "grouped Conv": (IMAGE, "y = Conv<group=2>(x, w, b)", {"w": (6, 2, 3, 3), "b": (6,)}),
    "Conv, bias added": (IMAGE, "a = Conv(x, w)  y = Add(a, b)", {"w": (6, 4, 3, 3), "b": (1, 6, 1, 1)}),
    "ConvTranspose": (IMAGE, "y = ConvTranspose(x, w, b)", {"w": (4, 6, 3, 3), "b": (6,)}),
    "grouped ConvTranspose": (IMAGE, "y = ConvTranspose<group=2>(x, w, b)", {"w": (4, 3, 3, 3), "b": (6,)}),
    "Gemm": (ROWS, "y = Gemm(x, w, b)", {"w": (4, 6), "b": (6,)}),
    "Gemm, alpha and beta": (
        ROWS,
        "y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)",
        {"w": (6, 4), "b": (1, 6)},
    ),
    "MatMul and Add": (ROWS, "a = MatMul(x, w)  y = Add(b, a)", {"w": (4, 6), "b": (6,)}),
    "through Transpose": (
        ROWS,
        "t = Transpose<perm=[1,0]>(w)  a = MatMul(x, t)  y = Add(a, b)",
        {"w": (6, 4), "b": (6,)},
    ),
    "through Identity": (ROWS, "t = Identity(w)  c = Identity(b)  y = Gemm(x, t, c)", {"w": (4, 6), "b": (6,)}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_output_units_are_scaled_and_shifted(case: tuple[str, str, dict[str, tuple[int, ...]]]) -> None:
    graph_input, nodes, shapes = case
    rank = 4 if graph_input == IMAGE else 2
    output = "float[n,6,h,w] y" if rank == 4 else "float[n,6] y"
    net = network(f"({graph_input}) => ({output}) {{ {nodes} }}", normal(w=shapes["w"], b=shapes["b"]))
    [layer], notes = linear_layers(net.graph)
    assert notes == []
    assert (layer.output, layer.units, layer.weight, layer.bias) == ("y", 6, "w", "b")

    rng = np.random.default_rng(1)
    factors, mean, target = rng.uniform(0.5, 2, 6), rng.normal(size=6), rng.normal(size=6)
    changed = {
        "w": layer.scale_weight(net.weights["w"], factors),
        "b": layer.move_bias(net.weights["b"], factors, mean, target),
    }
    x = rng.normal(size=(2, 4, 5, 5) if rank == 4 else (2, 4)).astype(np.float32)
    before, after = (values(net.model, weights, ["y"], {"x": x})["y"] for weights in (net.weights, changed))

    def per_unit(vector: NDArray[Any]) -> NDArray[Any]:
        return vector.reshape(1, -1, *[1] * (rank - 2))

    expected = (before - per_unit(mean)) * per_unit(factors) + per_unit(target)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)


def test_a_shared_weight_is_left_alone_and_noted() -> None:
    net = network(
        "(float[n,4] x) => (float[n,4] y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, w) }", normal(w=(4, 4))
    )
    layers, notes = linear_layers(net.graph)
    assert layers == []
    assert len(notes) == 2
    assert "initializer w is read by several" in notes[0]


def test_an_add_of_another_signal_is_no_bias() -> None:
    net = network("(float[n,4] x) => (float[n,4] y) { a = MatMul(x, w)  y = Add(a, x) }", normal(w=(4, 4)))
    [layer], _ = linear_layers(net.graph)
    assert (layer.output, layer.bias) == ("a", None)


def test_products_of_two_signals_and_batched_matrices_are_no_layers() -> None:
    net = network("(float[2,3,3] x) => (float[2,3,3] y) { a = MatMul(x, x)  y = MatMul(a, w) }", normal(w=(2, 3, 3)))
    assert linear_layers(net.graph) == ([], [])
