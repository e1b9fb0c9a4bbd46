"""One operator at a time between a projection and a head: what stays free, proved by the certificate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.axes.structures.expected import certified_groups, group
from tests.axes.typed import Group
from tests.graphs import build, normal

FREE = group(6, ("w1", 1), ("w2", 0))
"""The projected units, when the operator in the middle leaves them alone."""

Weights = dict[str, Any]


def sandwich(
    middle: str, weights: Weights, *, before: tuple[int, int] = (4, 6), after: int = 6, opset: int = 21
) -> set[Group]:
    """``x [1, 3, 4] -> w1 -> a -> middle -> b -> w2 -> y``."""
    model = build(
        f"(float[1,3,4] x) => (float y) {{ a = MatMul(x, w1) {middle} y = MatMul(b, w2) }}",
        {**normal(w1=before, w2=(after, 2)), **weights},
        opset=opset,
        domains={"com.microsoft": 1},
        check=False,
    )
    return certified_groups(model)


def integers(**values: Any) -> Weights:
    return {name: np.asarray(value, np.int64) for name, value in values.items()}


def floats(**shapes: tuple[int, ...]) -> Weights:
    return dict(normal(seed=3, scale=0.5, **shapes))


PASSES: dict[str, tuple[str, Weights]] = {
    "CumSum over another axis": ("b = CumSum(a, axis)", integers(axis=1)),
    "Trilu of other axes": ("t = Transpose<perm=[2, 0, 1]>(a) u = Trilu(t) b = Transpose<perm=[1, 2, 0]>(u)", {}),
    "ReverseSequence": ("b = ReverseSequence<batch_axis=0, time_axis=1>(a, lengths)", integers(lengths=[2])),
    "GatherElements of rows": (
        "i = Expand(index, shape) b = GatherElements<axis=1>(a, i)",
        integers(index=[[[2], [0]]], shape=[1, 2, 6]),
    ),
    "ScatterElements of rows": (
        "i = Expand(index, shape) z = Mul(a, two) u = Slice(z, s0, s2, s1) b = ScatterElements<axis=1>(a, i, u)",
        {**integers(index=[[[2], [0]]], shape=[1, 2, 6], s0=[0], s2=[2], s1=[1]), "two": np.float32(2)},
    ),
    "GatherND of rows": ("b = GatherND<batch_dims=1>(a, index)", integers(index=[[[2], [0]]])),
    "ScatterND of rows": (
        "z = Mul(a, two) u = Gather<axis=1>(z, first) b = ScatterND(a, index, u)",
        {**integers(index=[[[0, 2]]], first=[1]), "two": np.float32(2)},
    ),
    "Gather of rows in the flat tensor": (
        "f = Reshape(a, long) r = Gather(f, rows) b = Unsqueeze(r, first)",
        integers(long=[-1], rows=np.add.outer([12, 0], np.arange(6)), first=[0]),
    ),
    "GatherND of elements of whole rows": (
        "r = GatherND(a, index) b = Unsqueeze(r, first)",
        integers(index=np.stack(np.broadcast_arrays(0, [[2], [0]], np.arange(6)), axis=-1), first=[0]),
    ),
    "ScatterND of elements of whole rows": (
        "z = Mul(a, two) u = Slice(z, s0, s2, s1) b = ScatterND(a, index, u)",
        {
            **integers(
                index=np.stack(np.broadcast_arrays(0, [[[2], [0]]], np.arange(6)), axis=-1), s0=[0], s2=[2], s1=[1]
            ),
            "two": np.float32(2),
        },
    ),
    "Compress of rows": ("b = Compress<axis=1>(a, keep)", {"keep": np.array([True, False, True])}),
    "TopK of rows": ("b, i = TopK<axis=1>(a, k)", integers(k=[2])),
    "DFT over another axis": (
        "u = Unsqueeze(a, last) d = DFT(u, , axis) r = Gather<axis=3>(d, zero) b = Identity(r)",
        integers(last=[-1], axis=1, zero=0),
    ),
    "CenterCropPad of rows": ("b = CenterCropPad<axes=[1]>(a, size)", integers(size=[2])),
    "LpNormalization": ("b = LpNormalization(a)", {}),
    "MeanVarianceNormalization": ("b = MeanVarianceNormalization<axes=[1, 2]>(a)", {}),
    "Quantised and back": (
        "q, s, z = DynamicQuantizeLinear(a) b = DequantizeLinear(q, s, z)",
        {},
    ),
    "FusedMatMul": (
        "t = com.microsoft.FusedMatMul<transB=1>(a, v) b = com.microsoft.FusedMatMul(t, v)",
        floats(v=(5, 6)),
    ),
    "BiasGelu": ("b = com.microsoft.BiasGelu(a, bias)", floats(bias=(6,))),
    "FastGelu": ("b = com.microsoft.FastGelu(a, bias)", floats(bias=(6,))),
    "QuickGelu": ("b = com.microsoft.QuickGelu(a)", {}),
    "Dropout": ("b = Dropout(a)", {}),
    "CastLike": ("b = CastLike(a, w2)", {}),
    "Roll over the rows": (
        "p = Slice(a, s0, s1, s1) q = Slice(a, s1, s3, s1) b = Concat<axis=1>(q, p)",
        integers(s0=[0], s1=[1], s3=[3]),
    ),
}


@pytest.mark.parametrize("name", PASSES)
def test_units_beside_what_an_operator_reads_stay_free(name: str) -> None:
    middle, weights = PASSES[name]
    extra = {("v", 1)} if "v" in weights else {("bias", 0)} if "bias" in weights else set()
    found = sandwich(middle, weights)
    assert group(6, ("w1", 1), ("w2", 0), *extra) in found


FIXES: dict[str, tuple[str, Weights, int]] = {
    "CumSum": ("b = CumSum(a, axis)", integers(axis=2), 6),
    "Trilu": ("b = Trilu(a)", {}, 6),
    "TopK": ("b, i = TopK(a, k)", integers(k=[2]), 2),
    "Hardmax": ("b = Hardmax(a)", {}, 6),
    "ArgMax": (
        "i = ArgMax<keepdims=0>(a) b = OneHot(i, depth, values)",
        {**integers(depth=6), "values": np.array([0, 1], np.float32)},
        6,
    ),
    "DFT": (
        "u = Unsqueeze(a, last) d = DFT(u, , axis) b = Gather<axis=3>(d, zero)",
        integers(last=[-1], axis=2, zero=0),
        6,
    ),
    "Compress": ("b = Compress<axis=2>(a, keep)", {"keep": np.array([True, False, True, True, True, False])}, 4),
    "Unique": ("u = Unique(a) z = Mul(a, none) m = ReduceMax<keepdims=0>(u) b = Add(z, m)", {"none": np.float32(0)}, 6),
    "LRN": (
        """t = Transpose<perm=[0, 2, 1]>(a) u = Unsqueeze(t, last) l = LRN<size=3>(u) v = Squeeze(l, last)
        b = Transpose<perm=[0, 2, 1]>(v)""",
        integers(last=[-1]),
        6,
    ),
    "Gather of windows that begin inside a row": (
        "f = Reshape(a, long) r = Gather(f, rows) b = Unsqueeze(r, first)",
        integers(long=[-1], rows=np.add.outer([0, 3], np.arange(6)), first=[0]),
        6,
    ),
    "ScatterND of elements in another order": (
        "u = Slice(a, s0, s1, s1) b = ScatterND(a, index, u)",
        integers(
            index=np.stack(np.broadcast_arrays(0, 1, [[[3, 1, 0, 5, 4, 2]]]), axis=-1),
            s0=[0],
            s1=[1],
        ),
        6,
    ),
    "Shuffled Gather": ("b = Gather<axis=2>(a, order)", integers(order=[3, 1, 0, 5, 4, 2]), 6),
}


@pytest.mark.parametrize("name", FIXES)
def test_units_that_an_operator_reads_by_number_are_fixed(name: str) -> None:
    middle, weights, after = FIXES[name]
    assert not any(("w1", 1) in places for _, _, places in sandwich(middle, weights, after=after))


def test_prelu_slope_follows_its_channel() -> None:
    assert sandwich("b = PRelu(a, slope)", floats(slope=(6,))) == {group(6, ("w1", 1), ("slope", 0), ("w2", 0))}


def test_skip_layer_normalisation() -> None:
    middle = "b, , , s = com.microsoft.SkipLayerNormalization(a, a, gamma, beta, bias)"
    places = [("w1", 1), ("gamma", 0), ("beta", 0), ("bias", 0), ("w2", 0)]
    assert sandwich(middle, floats(gamma=(6,), beta=(6,), bias=(6,))) == {group(6, *places)}


def test_microsoft_attention_splits_its_packed_weights() -> None:
    middle = "b = com.microsoft.Attention<num_heads=2>(a, qkv, bias)"
    assert sandwich(middle, floats(qkv=(6, 24), bias=(24,)), after=8) == {
        group(6, ("w1", 1), ("qkv", 0)),
        group(2, ("qkv", 1), ("bias", 0), ("w2", 0)),
        group(4, ("qkv", 1), ("bias", 0), outer=(2,)),
        group(4, ("qkv", 1), ("bias", 0), ("w2", 0), outer=(2,)),
    }


def test_microsoft_multi_head_attention() -> None:
    middle = """q = MatMul(a, wq) k = MatMul(a, wk) v = MatMul(a, wv)
        b = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v, bias)"""
    assert sandwich(middle, floats(wq=(6, 8), wk=(6, 8), wv=(6, 8), bias=(24,)), after=8) == {
        group(6, ("w1", 1), ("wq", 0), ("wk", 0), ("wv", 0)),
        group(2, ("wq", 1), ("wk", 1), ("wv", 1), ("bias", 0), ("w2", 0)),
        group(4, ("wq", 1), ("wk", 1), ("bias", 0), outer=(2,)),
        group(4, ("wv", 1), ("bias", 0), ("w2", 0), outer=(2,)),
    }


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_grouped_heads(causal: int) -> None:
    middle = f"""q = MatMul(a, wq) k = MatMul(a, wk) v = MatMul(a, wv)
        b = Attention<q_num_heads=4, kv_num_heads=2, is_causal={causal}>(q, k, v)"""
    assert sandwich(middle, floats(wq=(6, 20), wk=(6, 10), wv=(6, 6)), after=12, opset=23) == {
        group(6, ("w1", 1), ("wq", 0), ("wk", 0), ("wv", 0)),
        group(2, ("wq", 1), ("wk", 1), ("wv", 1), ("w2", 0)),
        group(2, ("wq", 1), ("w2", 0), outer=(2,)),
        group(5, ("wq", 1), ("wk", 1), outer=(2,)),
        group(3, ("wv", 1), ("w2", 0), outer=(2,)),
    }


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding_moves_whole_pairs_with_their_frequency(interleaved: int) -> None:
    """A table that is a model's own moves along; the same table in all models would fix the pairs."""
    middle = f"b = RotaryEmbedding<num_heads=1, interleaved={interleaved}>(a, cos, sin)"
    places = [("w1", 1), ("cos", 2), ("sin", 2), ("w2", 0)]
    assert sandwich(middle, floats(cos=(1, 3, 3), sin=(1, 3, 3)), opset=23) == {group(3, *places)}


def test_matmul_of_packed_bits_moves_its_rows() -> None:
    rng = np.random.default_rng(0)
    weights: Weights = {
        "bits": rng.integers(0, 255, (5, 2, 8), dtype=np.uint8),
        "scales": rng.uniform(0.1, 0.2, (5, 2)).astype(np.float32),
    }
    middle = "b = com.microsoft.MatMulNBits<K=32, N=5, bits=4, block_size=16>(a, bits, scales)"
    assert sandwich(middle, weights, before=(4, 32), after=5) == {group(5, ("bits", 0), ("scales", 0), ("w2", 0))}


def test_dynamically_quantised_product() -> None:
    rng = np.random.default_rng(0)
    weights: Weights = {
        "q": rng.integers(-90, 90, (6, 5), dtype=np.int8),
        "s": rng.uniform(0.01, 0.02, 5).astype(np.float32),
    }
    middle = "b = com.microsoft.DynamicQuantizeMatMul(a, q, s)"
    assert sandwich(middle, weights, after=5) == {
        group(6, ("w1", 1), ("q", 0)),
        group(5, ("q", 1), ("s", 0), ("w2", 0)),
    }


def test_quantised_convolution_and_product() -> None:
    """QLinearConv with a scale for each output channel, then QLinearMatMul."""
    rng = np.random.default_rng(0)
    graph = """(float[1,3,8,8] x) => (float[1,2] y) {
        a = QuantizeLinear(x, s, z)
        c = QLinearConv(a, s, z, w, ws, wz, s, z, bias)
        p = com.microsoft.QLinearGlobalAveragePool(c, s, z, s, z) f = Flatten(p)
        m = QLinearMatMul(f, s, z, v, vs, vz, s, z) y = DequantizeLinear(m, s, z)
    }"""
    weights: Weights = {
        "s": np.float32(0.05),
        "z": np.uint8(128),
        "w": rng.integers(-90, 90, (6, 3, 3, 3), dtype=np.int8),
        "ws": rng.uniform(0.001, 0.002, 6).astype(np.float32),
        "wz": np.zeros(6, np.int8),
        "bias": rng.integers(-900, 900, 6, dtype=np.int32),
        "v": rng.integers(-90, 90, (6, 2), dtype=np.int8),
        "vs": np.float32(0.01),
        "vz": np.int8(0),
    }
    model = build(graph, weights, domains={"com.microsoft": 1}, check=False)
    assert certified_groups(model) == {group(6, ("w", 0), ("ws", 0), ("bias", 0), ("v", 0))}


def test_blocked_quantisation() -> None:
    """Blocks of the reduced axis move as wholes, and inside each block its units."""
    rng = np.random.default_rng(0)
    weights: Weights = {
        "q": rng.integers(-90, 90, (6, 5), dtype=np.int8),
        "s": rng.uniform(0.01, 0.02, (2, 5)).astype(np.float32),
    }
    found = sandwich("d = DequantizeLinear<axis=0, block_size=3>(q, s) b = MatMul(a, d)", weights, after=5)
    assert found == {
        group(2, ("w1", 1), ("q", 0), ("s", 0)),
        group(3, ("w1", 1), ("q", 0), outer=(2,)),
        group(5, ("q", 1), ("s", 1), ("w2", 0)),
    }


def test_what_a_rule_only_reads_is_fixed() -> None:
    """A float initializer may be read as a bound or a scale: its own axis must not move."""
    weights = {**floats(w1=(4, 6)), "roi": np.array([0, 0, 0, 1, 1, 1], np.float32)}
    found = sandwich("b = Resize(a, roi, scales)", {"roi": weights["roi"], "scales": np.array([1, 2, 1], np.float32)})
    assert found == {FREE}
