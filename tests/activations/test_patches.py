"""The rows that a layer multiplies, against ONNX Runtime and against an im2col written out."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.activations.patches import form_of, pick, values_at
from onnxmerge.merging.closed_form.ridge import Sums
from onnxmerge.model.linear_layers import linear_layers
from tests.graphs import normal
from tests.merging.networks import network, values

CONVOLUTIONS = [
    ("Conv", (6, 3, 3, 3)),
    ("Conv<pads=[1,2,0,1], strides=[2,1]>", (6, 3, 3, 2)),
    ("Conv<dilations=[2,1], pads=[2,2,2,2]>", (6, 3, 3, 3)),
    ("Conv<group=3, pads=[1,1,1,1]>", (6, 1, 3, 3)),
    ('Conv<auto_pad="SAME_UPPER", strides=[2,2]>', (6, 3, 2, 2)),
    ('Conv<auto_pad="SAME_LOWER", strides=[2,3]>', (6, 3, 4, 4)),
    ('Conv<auto_pad="VALID">', (6, 3, 2, 2)),
]


@pytest.mark.parametrize(("operator", "shape"), CONVOLUTIONS)
def test_rows_times_matrix_is_the_convolution(operator: str, shape: tuple[int, ...]) -> None:
    net = network(f"(float[n,3,7,8] x) => (float[n,6,h,w] y) {{ y = {operator}(x, w) }}", normal(w=shape))
    x = np.random.default_rng(1).normal(size=(4, 3, 7, 8)).astype(np.float32)
    y = values(net.model, {}, ["y"], {"x": x})["y"]
    (layer,), _ = linear_layers(net.graph)
    form = form_of(net.graph[0], layer)
    assert form is not None
    picks = pick(y.shape, 1, 50, np.random.default_rng(0))
    rows = form.rows(x, picks)
    found = np.einsum("gnd,gud->ngu", rows, form.matrix(net.weights["w"])).reshape(len(picks[0]), 6)
    np.testing.assert_allclose(found, values_at(y, 1, picks), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(form.weight(form.matrix(net.weights["w"]), net.weights["w"]), net.weights["w"])


@pytest.mark.parametrize(
    ("node", "x_shape", "w_shape"),
    [
        ("Gemm<transB=1>(x, w)", (5, 4), (3, 4)),
        ("Gemm<alpha=0.5>(x, w)", (5, 4), (4, 3)),
        ("Gemm<transA=1>(x, w)", (4, 5), (4, 3)),
        ("MatMul(x, w)", (5, 2, 4), (4, 3)),
    ],
)
def test_rows_of_a_matrix_product(node: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> None:
    sizes = ",".join(map(str, x_shape))
    net = network(
        f"(float[{sizes}] x) => (float[{'a,b,c' if len(x_shape) > 2 else 'a,b'}] y) {{ y = {node} }}", normal(w=w_shape)
    )
    x = np.random.default_rng(1).normal(size=x_shape).astype(np.float32)
    y = values(net.model, {}, ["y"], {"x": x})["y"]
    (layer,), _ = linear_layers(net.graph)
    form = form_of(net.graph[0], layer)
    assert form is not None
    picks = pick(y.shape, -1, 100, np.random.default_rng(0))
    found = form.rows(x, picks)[0] @ form.matrix(net.weights["w"])[0].T
    np.testing.assert_allclose(found, values_at(y, -1, picks), rtol=1e-5, atol=1e-5)


def test_the_gram_matrix_is_that_of_im2col() -> None:
    """Batch after batch of taps, against every padded patch of every image at once."""
    net = network(
        "(float[n,2,6,5] x) => (float[n,4,h,w] y) { y = Conv<pads=[1,1,1,1], strides=[2,1]>(x, w) }",
        normal(w=(4, 2, 3, 3)),
    )
    (layer,), _ = linear_layers(net.graph)
    form = form_of(net.graph[0], layer)
    assert form is not None
    x = np.random.default_rng(0).normal(2, 1, (6, 2, 6, 5)).astype(np.float32)
    sums = Sums(np.full((1, 18), 1.5), np.zeros((1, 1, 4)))
    for part in (x[:4], x[4:]):
        y = values(net.model, {}, ["y"], {"x": part})["y"]
        picks = pick(y.shape, 1, 10_000, np.random.default_rng(0))
        sums.add(form.rows(part, picks), values_at(y, 1, picks)[None, None])
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2]
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 18).astype(np.float64)
    assert sums.count == len(patches)
    np.testing.assert_allclose(sums.xx[0], (patches - 1.5).T @ (patches - 1.5), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(sums.x[0], (patches - 1.5).sum(axis=0), rtol=1e-4, atol=1e-3)


def test_picks_are_drawn_without_replacement_and_in_order() -> None:
    picks = pick((3, 5, 4, 4), 1, 20, np.random.default_rng(0))
    flat = np.ravel_multi_index(picks, (3, 4, 4))
    assert len(set(flat)) == 20
    assert np.all(np.diff(flat) > 0)
