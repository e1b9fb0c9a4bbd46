"""Attention as exporters write it: heads are one space, the units inside a head vary with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.axes.structures.expected import certified_groups, group
from tests.graphs import build, normal

POOL = "axis = Constant<value=int64[1] {1}>() pooled = ReduceMean<keepdims=0>(last, axis) y = MatMul(pooled, head)"


def heads(name: str, source: str, count: int, width: int) -> str:
    """[n, s, count * width] to [n, count, s, width]."""
    return f"""s_{name} = Constant<value=int64[4] {{0, 0, {count}, {width}}}>() r_{name} = Reshape({source}, s_{name})
        {name} = Transpose<perm=[0, 2, 1, 3]>(r_{name})"""


def joined(name: str, source: str) -> str:
    """[n, h, s, d] to [n, s, h * d]."""
    return f"""t_{name} = Transpose<perm=[0, 2, 1, 3]>({source}) s_{name} = Constant<value=int64[3] {{0, 0, -1}}>()
        {name} = Reshape(t_{name}, s_{name})"""


SCORES = """kt = Transpose<perm=[0, 1, 3, 2]>(k) scores = MatMul(q, kt) p = Softmax(scores) o = MatMul(p, v)"""


def test_heads_of_separate_projections() -> None:
    graph = f"""(float[n,5,3] x) => (float[n,2] y) {{
        e = MatMul(x, embed) a = MatMul(e, wq) b = MatMul(e, wk) c = MatMul(e, wv)
        {heads("q", "a", 2, 4)} {heads("k", "b", 2, 4)} {heads("v", "c", 2, 3)} {SCORES} {joined("m", "o")}
        z = MatMul(m, wo) last = Add(e, z) {POOL}
    }}"""
    weights = normal(embed=(3, 6), wq=(6, 8), wk=(6, 8), wv=(6, 6), wo=(6, 6), head=(6, 2))
    assert certified_groups(build(graph, weights)) == {
        group(6, ("embed", 1), ("wq", 0), ("wk", 0), ("wv", 0), ("wo", 1), ("head", 0)),
        group(2, ("wq", 1), ("wk", 1), ("wv", 1), ("wo", 0)),
        group(4, ("wq", 1), ("wk", 1), outer=(2,)),
        group(3, ("wv", 1), ("wo", 0), outer=(2,)),
    }


@pytest.mark.parametrize("taking", ["gather", "split"])
def test_fused_qkv(taking: str) -> None:
    """One matrix for q, k and v: (3 h d). The heads are one, and q and k share what v does not."""
    if taking == "gather":
        take = """order = Constant<value=int64[5] {0, 0, 3, 2, 4}>() five = Reshape(qkv, order)
        turned = Transpose<perm=[2, 0, 3, 1, 4]>(five)
        i0 = Constant<value=int64 {0}>() q = Gather<axis=0>(turned, i0)
        i1 = Constant<value=int64 {1}>() k = Gather<axis=0>(turned, i1)
        i2 = Constant<value=int64 {2}>() v = Gather<axis=0>(turned, i2)"""
    else:
        take = f"""thirds = Constant<value=int64[3] {{8, 8, 8}}>() a, b, c = Split<axis=2>(qkv, thirds)
        {heads("q", "a", 2, 4)} {heads("k", "b", 2, 4)} {heads("v", "c", 2, 4)}"""
    graph = f"""(float[n,5,3] x) => (float[n,2] y) {{
        e = MatMul(x, embed) f = MatMul(e, w) qkv = Add(f, bias) {take} {SCORES} {joined("m", "o")}
        last = MatMul(m, wo) {POOL}
    }}"""
    weights = normal(embed=(3, 6), w=(6, 24), bias=(24,), wo=(8, 5), head=(5, 2))
    assert certified_groups(build(graph, weights)) == {
        group(6, ("embed", 1), ("w", 0)),
        group(2, ("w", 1), ("bias", 0), ("wo", 0)),
        group(4, ("w", 1), ("bias", 0), outer=(2,)),
        group(4, ("w", 1), ("bias", 0), ("wo", 0), outer=(2,)),
        group(5, ("wo", 1), ("head", 0)),
    }


def test_qk_norm_gives_all_heads_one_order() -> None:
    norm = "RMSNormalization<axis=-1>"
    graph = f"""(float[n,5,3] x) => (float[n,2] y) {{
        a = MatMul(x, wq) b = MatMul(x, wk) c = MatMul(x, wv)
        {heads("q0", "a", 2, 4)} {heads("k0", "b", 2, 4)} {heads("v", "c", 2, 4)}
        q = {norm}(q0, qn) k = {norm}(k0, kn) {SCORES} {joined("m", "o")} last = MatMul(m, wo) {POOL}
    }}"""
    weights = normal(wq=(3, 8), wk=(3, 8), wv=(3, 8), qn=(4,), kn=(4,), wo=(8, 5), head=(5, 2))
    assert certified_groups(build(graph, weights, opset=23)) == {
        group(2, ("wq", 1), ("wk", 1), ("wv", 1), ("wo", 0)),
        group(4, ("wq", 1), ("wk", 1), ("qn", 0), ("kn", 0)),
        group(4, ("wv", 1), ("wo", 0), outer=(2,)),
        group(5, ("wo", 1), ("head", 0)),
    }


GQA = {
    "expand": """one = Constant<value=int64[1] {2}>() ku = Unsqueeze(k0, one) vu = Unsqueeze(v0, one)
        wide = Constant<value=int64[5] {1, 2, 3, 5, 4}>() ke = Expand(ku, wide) ve = Expand(vu, wide)
        six = Constant<value=int64[4] {1, 6, 5, 4}>() k = Reshape(ke, six) v = Reshape(ve, six)""",
    "tile": """one = Constant<value=int64[1] {2}>() ku = Unsqueeze(k0, one) vu = Unsqueeze(v0, one)
        times = Constant<value=int64[5] {1, 1, 3, 1, 1}>() ke = Tile(ku, times) ve = Tile(vu, times)
        six = Constant<value=int64[4] {1, 6, 5, 4}>() k = Reshape(ke, six) v = Reshape(ve, six)""",
    "concat": """one = Constant<value=int64[1] {2}>() ku = Unsqueeze(k0, one) vu = Unsqueeze(v0, one)
        ke = Concat<axis=2>(ku, ku, ku) ve = Concat<axis=2>(vu, vu, vu)
        six = Constant<value=int64[4] {1, 6, 5, 4}>() k = Reshape(ke, six) v = Reshape(ve, six)""",
    "gather": """times = Constant<value=int64[6] {0, 0, 0, 1, 1, 1}>()
        k = Gather<axis=1>(k0, times) v = Gather<axis=1>(v0, times)""",
}


@pytest.mark.parametrize("repeat", sorted(GQA))
def test_grouped_query_attention(repeat: str) -> None:
    """Two key heads, each for three query heads: the three may change places inside theirs, and share its units."""
    graph = f"""(float[1,5,3] x) => (float[1,2] y) {{
        a = MatMul(x, wq) b = MatMul(x, wk) c = MatMul(x, wv)
        {heads("q", "a", 6, 4)} {heads("k0", "b", 2, 4)} {heads("v0", "c", 2, 4)}
        {GQA[repeat]} {SCORES} {joined("m", "o")} last = MatMul(m, wo) {POOL}
    }}"""
    weights = normal(wq=(3, 24), wk=(3, 8), wv=(3, 8), wo=(24, 5), head=(5, 2))
    assert certified_groups(build(graph, weights)) == {
        group(2, ("wq", 1), ("wk", 1), ("wv", 1), ("wo", 0)),
        group(3, ("wq", 1), ("wo", 0), outer=(2,)),
        group(4, ("wq", 1), ("wk", 1), outer=(2,)),
        group(4, ("wv", 1), ("wo", 0), outer=(2,)),
        group(5, ("wo", 1), ("head", 0)),
    }


def test_multi_query_attention() -> None:
    graph = f"""(float[n,5,3] x) => (float[n,2] y) {{
        a = MatMul(x, wq) b = MatMul(x, wk) c = MatMul(x, wv)
        {heads("q", "a", 6, 4)} {heads("k", "b", 1, 4)} {heads("v", "c", 1, 4)} {SCORES} {joined("m", "o")}
        last = MatMul(m, wo) {POOL}
    }}"""
    weights = normal(wq=(3, 24), wk=(3, 4), wv=(3, 4), wo=(24, 5), head=(5, 2))
    assert certified_groups(build(graph, weights)) == {
        group(6, ("wq", 1), ("wo", 0)),
        group(4, ("wq", 1), ("wk", 1)),
        group(4, ("wv", 1), ("wo", 0)),
        group(5, ("wo", 1), ("head", 0)),
    }


ROTATE = {
    "halves": """h{x} = Constant<value=int64[2] {2, 2}>() {x}1, {x}2 = Split<axis=3>({x}0, h{x})
        {x}n = Neg({x}2) {x}r = Concat<axis=3>({x}n, {x}1)""",
    "interleaved": """p{x} = Constant<value=int64[5] {0, 0, 0, 2, 2}>() {x}p = Reshape({x}0, p{x})
        i0{x} = Constant<value=int64[1] {0}>() i1{x} = Constant<value=int64[1] {1}>()
        {x}1 = Gather<axis=4>({x}p, i0{x}) {x}2 = Gather<axis=4>({x}p, i1{x})
        {x}n = Neg({x}2) {x}c = Concat<axis=4>({x}n, {x}1)
        f{x} = Constant<value=int64[4] {0, 0, 0, 4}>() {x}r = Reshape({x}c, f{x})""",
}


@pytest.mark.parametrize("layout", sorted(ROTATE))
def test_rotary_embedding(layout: str) -> None:
    """The same table in all models: pairs stay where their frequency is. Heads, and the units of v, stay free."""
    turn = "".join(
        f"""{ROTATE[layout].replace("{x}", x)} {x}c0 = Mul({x}0, cos) {x}s0 = Mul({x}r, sin) {x} = Add({x}c0, {x}s0)
        """
        for x in "qk"
    )
    angles = np.outer(np.arange(5), [1.0, 0.1])
    table = np.concatenate([angles, angles], 1) if layout == "halves" else np.repeat(angles, 2, 1)
    graph = f"""(float[n,5,3] x) => (float[n,2] y) {{
        a = MatMul(x, wq) b = MatMul(x, wk) c = MatMul(x, wv)
        {heads("q0", "a", 2, 4)} {heads("k0", "b", 2, 4)} {heads("v", "c", 2, 4)}
        {turn} {SCORES} {joined("m", "o")} last = MatMul(m, wo) {POOL}
    }}"""
    tables = {"cos": np.cos(table).astype(np.float32), "sin": np.sin(table).astype(np.float32)}
    models = [
        build(graph, {**normal(seed=seed, wq=(3, 8), wk=(3, 8), wv=(3, 8), wo=(8, 5), head=(5, 2)), **tables})
        for seed in (0, 1)
    ]
    assert certified_groups(*models) == {
        group(2, ("wq", 1), ("wk", 1), ("wv", 1), ("wo", 0)),
        group(4, ("wv", 1), ("wo", 0), outer=(2,)),
        group(5, ("wo", 1), ("head", 0)),
    }


def test_alibi_slopes_fix_the_heads() -> None:
    graph = f"""(float[n,5,3] x) => (float[n,2] y) {{
        a = MatMul(x, wq) b = MatMul(x, wk) c = MatMul(x, wv)
        {heads("q", "a", 2, 4)} {heads("k", "b", 2, 4)} {heads("v", "c", 2, 4)}
        kt = Transpose<perm=[0, 1, 3, 2]>(k) s0 = MatMul(q, kt) scores = Add(s0, alibi) p = Softmax(scores)
        o = MatMul(p, v) {joined("m", "o")} last = MatMul(m, wo) {POOL}
    }}"""
    distance = -np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    alibi = (np.array([0.5, 0.25]).reshape(2, 1, 1) * distance).astype(np.float32)
    models = [
        build(graph, {**normal(seed=seed, wq=(3, 8), wk=(3, 8), wv=(3, 8), wo=(8, 5), head=(5, 2)), "alibi": alibi})
        for seed in (0, 1)
    ]
    assert certified_groups(*models) == {
        group(4, ("wq", 1), ("wk", 1), outer=(2,)),
        group(4, ("wv", 1), ("wo", 0), outer=(2,)),
        group(5, ("wo", 1), ("head", 0)),
    }


def test_swin_block() -> None:
    """Roll, window partition, attention with a relative position bias table (its columns are the heads), and back."""
    windows = """part = Constant<value=int64[6] {1, 2, 2, 2, 2, 6}>() w6 = Reshape(rolled, part)
        wt = Transpose<perm=[0, 1, 3, 2, 4, 5]>(w6) flat = Constant<value=int64[3] {4, 4, 6}>() w = Reshape(wt, flat)"""
    back = """part2 = Constant<value=int64[6] {1, 2, 2, 2, 2, 6}>() b6 = Reshape(z, part2)
        bt = Transpose<perm=[0, 1, 3, 2, 4, 5]>(b6) img = Constant<value=int64[4] {1, 4, 4, 6}>()
        back = Reshape(bt, img)"""
    roll = """one = Constant<value=int64[1] {1}>() end = Constant<value=int64[1] {4}>()
        zero = Constant<value=int64[1] {0}>() r1 = Slice(e, one, end, one)
        r2 = Slice(e, zero, one, one) rows = Concat<axis=1>(r1, r2)
        two = Constant<value=int64[1] {2}>()
        c1 = Slice(rows, one, end, two) c2 = Slice(rows, zero, one, two) rolled = Concat<axis=2>(c1, c2)"""
    bias = """looked = Gather<axis=0>(table, index)
        square = Constant<value=int64[3] {4, 4, 2}>() b3 = Reshape(looked, square)
        b2 = Transpose<perm=[2, 0, 1]>(b3) b1 = Unsqueeze(b2, zero)"""
    graph = f"""(float[1,4,4,3] x) => (float[1,2] y) {{
        e = MatMul(x, embed) {roll} {windows}
        a = MatMul(w, wq) b = MatMul(w, wk) c = MatMul(w, wv)
        {heads("q", "a", 2, 3)} {heads("k", "b", 2, 3)} {heads("v", "c", 2, 3)} {bias}
        kt = Transpose<perm=[0, 1, 3, 2]>(k) s0 = MatMul(q, kt) scores = Add(s0, b1) p = Softmax(scores)
        o = MatMul(p, v) {joined("m", "o")} z = MatMul(m, wo) {back} last = Add(e, back)
        axes = Constant<value=int64[2] {{1, 2}}>() pooled = ReduceMean<keepdims=0>(last, axes) y = MatMul(pooled, head)
    }}"""
    rows = np.arange(4) // 2
    columns = np.arange(4) % 2
    index = (np.subtract.outer(rows, rows) + 1) * 3 + np.subtract.outer(columns, columns) + 1
    weights: dict[str, NDArray[Any]] = {
        **normal(embed=(3, 6), wq=(6, 6), wk=(6, 6), wv=(6, 6), wo=(6, 6), table=(9, 2), head=(6, 2)),
        "index": index.ravel().astype(np.int64),
    }
    assert certified_groups(build(graph, weights)) == {
        group(6, ("embed", 1), ("wq", 0), ("wk", 0), ("wv", 0), ("wo", 1), ("head", 0)),
        group(2, ("wq", 1), ("wk", 1), ("wv", 1), ("wo", 0), ("table", 1)),
        group(3, ("wq", 1), ("wk", 1), outer=(2,)),
        group(3, ("wv", 1), ("wo", 0), outer=(2,)),
    }


def test_patch_merging() -> None:
    """Four shifted grids side by side: the same channels four times, normalised together."""
    grids = "".join(
        f"g{i}{j}r = Slice(e, s{i}, end, one, two) g{i}{j} = Slice(g{i}{j}r, s{j}, end, two, two) "
        for i in range(2)
        for j in range(2)
    )
    graph = f"""(float[1,4,4,3] x) => (float[1,2] y) {{
        e = MatMul(x, embed) s0 = Constant<value=int64[1] {{0}}>() s1 = Constant<value=int64[1] {{1}}>()
        one = Constant<value=int64[1] {{1}}>() two = Constant<value=int64[1] {{2}}>()
        end = Constant<value=int64[1] {{4}}>() {grids} four = Concat<axis=3>(g00, g10, g01, g11)
        n = LayerNormalization(four, ln_w, ln_b)
        last = MatMul(n, reduce)
        axes = Constant<value=int64[2] {{1, 2}}>() pooled = ReduceMean<keepdims=0>(last, axes) y = MatMul(pooled, head)
    }}"""
    weights = normal(embed=(3, 5), ln_w=(20,), ln_b=(20,), reduce=(20, 6), head=(6, 2))
    assert certified_groups(build(graph, weights)) == {
        group(5, ("embed", 1), ("ln_w", 0), ("ln_b", 0), ("reduce", 0)),
        group(6, ("reduce", 1), ("head", 0)),
    }


def test_class_and_distillation_tokens() -> None:
    """Learned tokens beside the patches, learned positions, and a head that reads one token."""
    graph = """(float[1,4,3] x) => (float[1,2] y) {
        e = MatMul(x, embed) t = Concat<axis=1>(cls, dist, e) p = Add(t, pos)
        n = LayerNormalization(p, ln_w, ln_b) u = MatMul(n, up) g = Gelu(u) d = MatMul(g, down) r = Add(p, d)
        zero = Constant<value=int64 {0}>() first = Gather<axis=1>(r, zero) y = MatMul(first, head)
    }"""
    weights = normal(
        embed=(3, 5),
        cls=(1, 1, 5),
        dist=(1, 1, 5),
        pos=(1, 6, 5),
        ln_w=(5,),
        ln_b=(5,),
        up=(5, 7),
        down=(7, 5),
        head=(5, 2),
    )
    stream = [(name, 2) for name in ("cls", "dist", "pos")]
    stream += [("embed", 1), ("ln_w", 0), ("ln_b", 0), ("up", 0), ("down", 1), ("head", 0)]
    assert certified_groups(build(graph, weights)) == {group(5, *stream), group(7, ("up", 1), ("down", 0))}


def test_swiglu_fused_and_apart() -> None:
    fused = """gu = MatMul(e, w) halves = Constant<value=int64[2] {7, 7}>() g, u = Split<axis=2>(gu, halves)"""
    apart = """g = MatMul(e, wg) u = MatMul(e, wu)"""
    rest = normal(embed=(3, 5), down=(7, 6), head=(6, 2))
    for split, weights in ((fused, normal(w=(5, 14))), (apart, normal(wg=(5, 7), wu=(5, 7)))):
        graph = f"""(float[n,4,3] x) => (float[n,2] y) {{
            e = MatMul(x, embed) {split} s = Sigmoid(g) a = Mul(g, s) b = Mul(a, u) last = MatMul(b, down) {POOL}
        }}"""
        assert certified_groups(build(graph, {**rest, **weights})) == {
            group(5, ("embed", 1), *((name, 0) for name in weights)),
            group(7, *((name, 1) for name in weights), ("down", 0)),
            group(6, ("down", 1), ("head", 0)),
        }


def test_tied_embeddings() -> None:
    """The vocabulary is looked up by number; the units of the embedding move, in the table and in the output."""
    graph = """(int64[1,4] ids) => (float[1,4,9] y) {
        e = Gather<axis=0>(table, ids) n = LayerNormalization(e, ln_w, ln_b)
        t = Transpose<perm=[1, 0]>(table) y = MatMul(n, t)
    }"""
    weights = normal(table=(9, 5), ln_w=(5,), ln_b=(5,))
    assert certified_groups(build(graph, weights)) == {group(5, ("table", 1), ("ln_w", 0), ("ln_b", 0))}


def test_soft_mixture_of_experts() -> None:
    """Experts in one tensor and a softmax over all of them: experts move, and inside each its hidden units."""
    graph = f"""(float[n,4,3] x) => (float[n,2] y) {{
        e = MatMul(x, embed) r = MatMul(e, router) gate = Softmax(r)
        up = Einsum<equation="nsi,eih->nseh">(e, w1) act = Relu(up) down = Einsum<equation="nseh,eho->nseo">(act, w2)
        last = Einsum<equation="nseo,nse->nso">(down, gate) {POOL}
    }}"""
    weights = normal(embed=(3, 5), router=(5, 4), w1=(4, 5, 6), w2=(4, 6, 7), head=(7, 2))
    assert certified_groups(build(graph, weights)) == {
        group(5, ("embed", 1), ("router", 0), ("w1", 1)),
        group(4, ("router", 1), ("w1", 0), ("w2", 0)),
        group(6, ("w1", 2), ("w2", 1), outer=(4,)),
        group(7, ("w2", 2), ("head", 0)),
    }


def test_routed_mixture_of_experts() -> None:
    """TopK numbers the experts, so they stay; each still has its own order of hidden units."""
    graph = f"""(float[n,4,3] x) => (float[n,2] y) {{
        e = MatMul(x, embed) r = MatMul(e, router) two = Constant<value=int64[1] {{2}}>()
        best, which = TopK(r, two) zero = Sub(r, r) chosen = ScatterElements<axis=2>(zero, which, best)
        up = Einsum<equation="nsi,eih->nseh">(e, w1) act = Relu(up) down = Einsum<equation="nseh,eho->nseo">(act, w2)
        last = Einsum<equation="nseo,nse->nso">(down, chosen) {POOL}
    }}"""
    weights = normal(embed=(3, 5), router=(5, 4), w1=(4, 5, 6), w2=(4, 6, 7), head=(7, 2))
    assert certified_groups(build(graph, weights)) == {
        group(5, ("embed", 1), ("router", 0), ("w1", 1)),
        group(6, ("w1", 2), ("w2", 1), outer=(4,)),
        group(7, ("w2", 2), ("head", 0)),
    }


def test_key_value_cache() -> None:
    """The cache crosses the border with its heads and widths; the rest of the block stays free."""
    graph = f"""(float[1,1,3] x, float[1,2,6,4] past_k, float[1,2,6,4] past_v)
        => (float[1,2] y, float[1,2,7,4] k, float[1,2,7,4] v) {{
        e = MatMul(x, embed) a = MatMul(e, wq) b = MatMul(e, wk) c = MatMul(e, wv)
        {heads("q", "a", 2, 4)} {heads("k0", "b", 2, 4)} {heads("v0", "c", 2, 4)}
        k = Concat<axis=2>(past_k, k0) v = Concat<axis=2>(past_v, v0) {SCORES} {joined("m", "o")}
        z = MatMul(m, wo) last = Add(e, z) {POOL}
    }}"""
    weights = normal(embed=(3, 6), wq=(6, 8), wk=(6, 8), wv=(6, 8), wo=(8, 6), head=(6, 2))
    assert certified_groups(build(graph, weights)) == {
        group(6, ("embed", 1), ("wq", 0), ("wk", 0), ("wv", 0), ("wo", 1), ("head", 0)),
    }
