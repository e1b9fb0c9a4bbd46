"""Which axes of a weight take units in."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.axes.typed import typed
from tests.graphs import build, normal

Weights = dict[str, tuple[int, ...]]

CASES: dict[str, tuple[str, Weights, set[tuple[str, int]]]] = {
    "gemm": (
        "(float[n,4] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }",
        {"w1": (6, 4), "b1": (6,), "w2": (6, 3), "b2": (3,)},
        {("w1", 1), ("w2", 0)},
    ),
    "through a transpose": (
        """(float[n,4] x) => (float[n,4] y) {
            h = MatMul(x, w1) t = Transpose<perm=[1,0]>(w2) g = MatMul(h, t) s = Add(h, g) y = MatMul(s, w3)
        }""",
        {"w1": (4, 6), "w2": (6, 6), "w3": (6, 4)},
        {("w1", 0), ("w2", 1), ("w3", 0)},
    ),
    "grouped convolution": (
        "(float[n,4,5] x) => (float[n,3,5] y) { h = Conv(x, w1) g = Conv<group=2>(h, w2, b2) y = Conv(g, w3) }",
        {"w1": (6, 4, 1), "w2": (8, 3, 1), "b2": (8,), "w3": (3, 8, 1)},
        {("w1", 1), ("w2", 1), ("w3", 1)},
    ),
    "depthwise scale and shift": (
        "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w1) s = Mul(h, gain) t = Add(s, shift) y = MatMul(t, w2) }",
        {"w1": (4, 6), "gain": (6,), "shift": (6,), "w2": (6, 3)},
        {("w1", 0), ("w2", 0)},
    ),
    "recurrent": (
        "(float[7,n,4] x) => (float[1,n,3] y) { a, h = RNN<hidden_size=6>(x, w, r) y = MatMul(h, out) }",
        {"w": (1, 6, 4), "r": (1, 6, 6), "out": (6, 3)},
        {("w", 2), ("r", 2), ("out", 0)},
    ),
    "gates": (
        "(float[7,n,4] x) => (float[1,n,3] y) { a, h = LSTM<hidden_size=6>(x, w, r, b) y = MatMul(h, out) }",
        {"w": (1, 24, 4), "r": (1, 24, 6), "b": (1, 48), "out": (6, 3)},
        {("w", 2), ("r", 2), ("out", 0)},
    ),
    "low rank": (
        "(float[n,4] x) => (float[n,3] y) { w = MatMul(down, up) y = MatMul(x, w) }",
        {"down": (4, 2), "up": (2, 3)},
        {("down", 0), ("up", 0)},
    ),
}


def weights_of(shapes: Weights) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("case", CASES)
def test_consumed_axes(case: str) -> None:
    text, shapes, expected = CASES[case]
    found = typed(build(text, weights_of(shapes)))
    assert {(name, axis) for name, axis, _ in found.consumed if name in shapes} == expected


def test_a_weight_that_another_node_reads_as_a_table_gives_its_units() -> None:
    text = """(int64[n] i) => (float[n,9] y) {
        e = Gather(table, i)  t = Transpose<perm=[1,0]>(table)  y = MatMul(e, t)
    }"""
    found = typed(build(text, normal(table=(9, 5))))
    assert not [role for role in found.consumed if role[0] == "table"]


def test_roles_are_of_spaces() -> None:
    text, shapes, _ = CASES["grouped convolution"]
    found = typed(build(text, weights_of(shapes)))
    (block,) = found.initializers["w2"].blocks
    giving, taking = block.axes[0].spaces, block.axes[1].spaces
    roles = {role for role in found.consumed if role[0] == "w2" and found.spaces[role[2]].free}
    assert roles == {("w2", 1, space) for space in taking}
    assert giving
    assert np.prod([found.spaces[space].size for space in giving]) == 8
