"""Integers that plain operators restore to weights."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxmerge.model import read_network
from onnxmerge.model.quantised import is_quantised_weight
from tests.graphs import build

RNG = np.random.default_rng(0)
INT8 = RNG.integers(-90, 90, (4, 6), dtype=np.int8)
SCALE = RNG.uniform(0.01, 0.02, 6).astype(np.float32)

WEIGHTS: dict[str, tuple[str, dict[str, Any]]] = {
    "scaled": ("c = Cast<to=1>(q) w = Mul(c, s) y = MatMul(x, w)", {"q": INT8, "s": SCALE}),
    "scaled afterwards": ("c = Cast<to=1>(q) m = MatMul(x, c) y = Mul(m, s)", {"q": INT8, "s": SCALE}),
    "divided": ("c = Cast<to=1>(q) w = Div(c, s) y = MatMul(x, w)", {"q": INT8, "s": SCALE}),
    "turned first": ("t = Transpose(q) c = Cast<to=1>(t) y = Gemm<transB=1>(x, c)", {"q": INT8}),
    "turned last": (
        "c = Cast<to=1>(q) w = Mul(c, s) t = Transpose(w) y = Gemm<transB=1>(x, t)",
        {"q": INT8, "s": SCALE},
    ),
    "zero points": (
        "a = Cast<to=6>(q) b = Cast<to=6>(q0) d = Sub(a, b) c = Cast<to=1>(d) w = Mul(c, s) y = MatMul(x, w)",
        {"q": INT8, "q0": np.arange(6, dtype=np.int8), "s": SCALE},
    ),
    "zero points as floats": (
        "a = Cast<to=1>(q) b = Cast<to=1>(q0) d = Sub(a, b) w = Mul(d, s) y = MatMul(x, w)",
        {"q": INT8.astype(np.uint8), "q0": np.uint8(128), "s": SCALE},
    ),
    "half precision": ("c = Cast<to=10>(q) d = Cast<to=1>(c) w = Mul(d, s) y = MatMul(x, w)", {"q": INT8, "s": SCALE}),
    "four bits": ("c = Cast<to=1>(q) w = Mul(c, s) y = MatMul(x, w)", {"q": INT8.astype(ml_dtypes.int4), "s": SCALE}),
    "two in a byte": (
        """d = BitShift<direction="RIGHT">(q, q1) e = BitwiseAnd(d, q2) f = Reshape(e, shape) c = Cast<to=1>(f)
        w = Mul(c, s) y = MatMul(x, w)""",
        {
            "q": RNG.integers(0, 255, (4, 3, 1), dtype=np.uint8), "q1": np.array([0, 4], np.uint8), "q2": np.uint8(15),
            "shape": [4, 6], "s": SCALE,
        },
    ),
    "a bias of 32 bits": ("c = Cast<to=1>(q) b = Mul(c, s) y = Add(x, b)", {"q": INT8[0].astype(np.int32), "s": SCALE}),
    "an update of low rank": (
        "c = Cast<to=1>(q) w = Mul(c, s) l = MatMul(down, up) z = Add(w, l) y = MatMul(x, z)",
        {"q": INT8, "s": SCALE, "down": np.ones((4, 2), np.float32), "up": np.ones((2, 6), np.float32)},
    ),
}  # fmt: skip
NOT_WEIGHTS: dict[str, tuple[str, dict[str, Any]]] = {
    "an index": ("y = Gather(x, q)", {"q": np.arange(3, dtype=np.int32)}),
    "a mask": ("c = Cast<to=9>(q) y = Where(c, x, s)", {"q": np.eye(4, dtype=np.uint8), "s": np.float32(0)}),
    "a mask that is added": (
        "c = Cast<to=1>(q) d = Mul(c, s) y = Add(x, d)",
        {"q": np.eye(4, dtype=np.uint8), "s": np.float32(-1e4)},
    ),
    "positions": ("c = Cast<to=1>(q) y = MatMul(x, c)", {"q": np.arange(4)[:, None]}),
    "positions of 32 bits": ("c = Cast<to=1>(q) y = MatMul(x, c)", {"q": np.arange(4, dtype=np.int32)[:, None]}),
    "angles": ("c = Cast<to=1>(q) d = Mul(c, s) e = Sin(d) y = MatMul(x, e)", {"q": INT8, "s": SCALE}),
    "bounds": (
        "a = Slice(w, q, q1) b = Cast<to=1>(a) c = Mul(b, s) y = MatMul(x, c)",
        {"q": np.array([0], np.int32), "q1": np.array([4], np.int32), "w": np.ones((5, 6), np.float16), "s": SCALE},
    ),
}


def quantised(nodes: str, weights: dict[str, Any]) -> dict[str, bool]:
    network = read_network(build(f"(float[4,4] x) => (y) {{ {nodes} }}", weights, check=False))
    found = network.graph.initializers
    return {name: is_quantised_weight(value) for name, value in found.items() if name.startswith("q")}


@pytest.mark.parametrize("name", WEIGHTS)
def test_what_restores_to_a_float_that_a_linear_layer_reads_is_a_weight(name: str) -> None:
    assert set(quantised(*WEIGHTS[name]).values()) == {True}


@pytest.mark.parametrize("name", NOT_WEIGHTS)
def test_other_integers_are_constants(name: str) -> None:
    assert set(quantised(*NOT_WEIGHTS[name]).values()) == {False}
