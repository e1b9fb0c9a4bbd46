"""Weights stored as integers and restored by plain operators: as free as floats, and proved on the integers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.axes.structures.expected import certified_groups, group
from tests.graphs import build, normal

RNG = np.random.default_rng(0)


def integers(*shape: int, dtype: Any = np.int8) -> np.ndarray:
    return RNG.integers(0 if np.dtype(dtype).kind == "u" else -90, 90, shape).astype(dtype)


def scales(*shape: int) -> np.ndarray:
    return RNG.uniform(0.005, 0.02, shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16], ids=lambda dtype: np.dtype(dtype).name)
def test_scaled_by_hand(dtype: Any) -> None:
    graph = """(float[2,3] x) => (float[2,2] y) {
        c1 = Cast<to=1>(q1) d1 = Sub(c1, z1) w1 = Mul(d1, s1) h = MatMul(x, w1) i = Cast<to=1>(b1) b = Mul(i, s1)
        g = Add(h, b) r = Relu(g) c2 = Cast<to=1>(q2) m = MatMul(r, c2) y = Mul(m, s2)
    }"""
    weights = {
        "q1": integers(3, 6, dtype=dtype), "z1": scales(6), "s1": scales(6), "b1": integers(6, dtype=np.int32),
        "q2": integers(6, 2, dtype=dtype), "s2": scales(2),
    }  # fmt: skip
    assert certified_groups(build(graph, weights, check=False)) == {
        group(6, ("q1", 1), ("z1", 0), ("s1", 0), ("b1", 0), ("q2", 0))
    }


def test_convolutions_with_integer_zero_points() -> None:
    graph = """(float[2,3,6,6] x) => (float[2,2] y) {
        i = Cast<to=6>(q1) j = Cast<to=6>(z1) k = Sub(i, j) c = Cast<to=1>(k) w = Mul(c, s1) h = Conv(x, w) r = Relu(h)
        f = Cast<to=1>(q2) v = Mul(f, s2) g = Conv(r, v) p = GlobalAveragePool(g) l = Flatten(p) y = MatMul(l, head)
    }"""
    weights: dict[str, Any] = {
        "q1": integers(6, 3, 3, 3, dtype=np.uint8), "z1": integers(6, 1, 1, 1, dtype=np.uint8),
        "s1": scales(6, 1, 1, 1), "q2": integers(4, 6, 1, 1), "s2": scales(4, 1, 1, 1), **normal(head=(4, 2)),
    }  # fmt: skip
    assert certified_groups(build(graph, weights, check=False)) == {
        group(6, ("q1", 0), ("z1", 0), ("s1", 0), ("q2", 1)),
        group(4, ("q2", 0), ("s2", 0), ("head", 0)),
    }


def test_a_table_looked_up_before_it_is_restored() -> None:
    graph = """(int64[2,5] ids) => (float[2,5,2] y) {
        e = Gather(table, ids) c = Cast<to=1>(e) s = Gather(s1, ids) w = Mul(c, s) n = LayerNormalization(w, g, g)
        y = MatMul(n, head)
    }"""
    weights: dict[str, Any] = {"table": integers(9, 6), "s1": scales(9, 1), **normal(g=(6,), head=(6, 2))}
    assert certified_groups(build(graph, weights, check=False)) == {group(6, ("table", 1), ("g", 0), ("head", 0))}


def test_two_numbers_in_a_byte() -> None:
    """Output channels move with their bytes; of the inputs, bytes as wholes, and inside all of them the two halves."""
    graph = """(float[2,3] x) => (float[2,2] y) {
        h = MatMul(x, w1) d = BitShift<direction="RIGHT">(bits, shifts) e = BitwiseAnd(d, mask) f = Reshape(e, shape)
        c = Cast<to=1>(f) o = Sub(c, eight) w = Mul(o, s) t = Transpose(w) a = MatMul(h, t) y = MatMul(a, head)
    }"""
    weights: dict[str, Any] = {
        **normal(w1=(3, 6), head=(5, 2)), "bits": integers(5, 3, 1, dtype=np.uint8),
        "shifts": np.array([0, 4], np.uint8), "mask": np.uint8(15), "shape": [5, 6], "eight": np.float32(8),
        "s": scales(5, 1),
    }  # fmt: skip
    assert certified_groups(build(graph, weights, check=False)) == {
        group(5, ("bits", 0), ("s", 0), ("head", 0)),
        group(3, ("w1", 1), ("bits", 1)),
        group(2, ("w1", 1), ("shifts", 0)),
    }


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4], ids=["int4", "uint4"])
def test_four_bits_in_blocks(dtype: Any) -> None:
    graph = """(float[2,3] x) => (float[2,2] y) {
        h = MatMul(x, w1) w = DequantizeLinear<axis=0, block_size=4>(q, s) a = MatMul(h, w) y = MatMul(a, head)
    }"""
    low = 0 if dtype is ml_dtypes.uint4 else -8
    weights: dict[str, Any] = {
        **normal(w1=(3, 8), head=(5, 2)), "q": RNG.integers(low, low + 16, (8, 5)).astype(dtype), "s": scales(2, 5),
    }  # fmt: skip
    assert certified_groups(build(graph, weights, check=False)) == {
        group(5, ("q", 1), ("s", 1), ("head", 0)),
        group(2, ("w1", 1), ("q", 0), ("s", 0)),
        group(4, ("w1", 1), ("q", 0), outer=(2,)),
    }


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4], ids=["int4", "uint4"])
def test_four_bits_scaled_by_hand(dtype: Any) -> None:
    graph = """(float[2,3] x) => (float[2,2] y) {
        c = Cast<to=1>(q) w = Mul(c, s) h = MatMul(x, w) r = Relu(h) y = MatMul(r, head)
    }"""
    low = 0 if dtype is ml_dtypes.uint4 else -8
    weights: dict[str, Any] = {
        **normal(head=(5, 2)), "q": RNG.integers(low, low + 16, (3, 5)).astype(dtype), "s": scales(5),
    }  # fmt: skip
    assert certified_groups(build(graph, weights, check=False)) == {group(5, ("q", 1), ("s", 0), ("head", 0))}
