"""Widths, bounds and indices that exporters compute at run time: axes that they leave alone stay free."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.axes.structures.expected import certified_groups, group
from tests.axes.typed import Group
from tests.graphs import build, normal

INTEGERS: dict[str, Any] = {
    "two": 2, "zero": [0], "begin": [0, 0], "before": [0, 0, 1, 0, 0], "rest": [0, 0, 0, 0], "whole": [2, 6],
    "pairs": [-1, 2], "long": [-1], "last": [-1], "least": [-(2**63)], "channel": [1], "six": [6], "most": [16],
}  # fmt: skip

WIDTH = """dims = Shape(h) t = Gather(dims, two) u = Cast<to=1>(t) v = Div(u, stride) c = Ceil(v) m = Mul(c, stride)
    d = Sub(m, u) i = Cast<to=7>(d) width = Unsqueeze(i, zero)"""
"""What a signal lacks to a multiple of the stride. That is a float of the model: no constant of all its copies."""

PYTORCH = """own = Concat<axis=0>(zero, width) all = Concat<axis=0>(own, rest) rows = Reshape(all, pairs)
    turned = Slice(rows, last, least, zero, last) columns = Transpose<perm=[1, 0]>(turned) flat = Reshape(columns, long)
    pads = Cast<to=7>(flat)"""
"""As PyTorch writes pads: pairs from the last axis on, reversed."""


def encoder(middle: str) -> set[Group]:
    """``x -> w1 -> h [2, 6, 18] -> middle -> p -> w2 -> y``."""
    graph = f"""(float[2,3,20] x) => (float y) {{
        h = Conv(x, w1) {middle} a = Conv(p, w2) g = GlobalAveragePool(a) f = Flatten(g) y = MatMul(f, head)
    }}"""
    weights = {**normal(w1=(6, 3, 3), w2=(4, 6, 3), head=(4, 2)), "stride": np.float32(4), **INTEGERS}
    return certified_groups(build(graph, weights, check=False))


LEFT_ALONE = {
    "pads put together": f"{WIDTH} pads = Concat<axis=0>(before, width) p = Pad(h, pads)",
    "pads as PyTorch writes them": f"{WIDTH} {PYTORCH} p = Pad(h, pads)",
    "mirrored": f'{WIDTH} {PYTORCH} p = Pad<mode="reflect">(h, pads)',
    "the edge repeated": f'{WIDTH} {PYTORCH} p = Pad<mode="edge">(h, pads)',
    "pads with arithmetic": f"{WIDTH} {PYTORCH} more = Add(pads, six) same = Sub(more, six) p = Pad(h, same)",
    "pads of one axis": f"{WIDTH} pads = Concat<axis=0>(zero, width) p = Pad(h, pads, , last)",
    "pads of one axis, all computed": f"{WIDTH} pads = Concat<axis=0>(width, width) p = Pad(h, pads, , last)",
    "bounds put together": f"""{WIDTH} end = Sub(most, width) ends = Concat<axis=0>(whole, end)
        starts = Concat<axis=0>(begin, width) p = Slice(h, starts, ends)""",
    "bounds of one axis": f"{WIDTH} p = Slice(h, width, most, last)",
    "parts of one axis": f"""{WIDTH} twice = Concat<axis=2>(h, h) o = Add(most, width) parts = Concat<axis=0>(o, o)
        p, q = Split<axis=2>(twice, parts)""",
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_channels_stay_free_beside_computed_widths(name: str) -> None:
    assert encoder(LEFT_ALONE[name]) == {group(6, ("w1", 0), ("w2", 1)), group(4, ("w2", 0), ("head", 0))}


READ = {
    "a width, zero now": f"{WIDTH} w = Sub(width, width) pads = Concat<axis=0>(zero, w, rest) p = Pad(h, pads)",
    "axes to be padded": f"""{WIDTH} axis = Sub(width, channel) pads = Concat<axis=0>(zero, zero)
        p = Pad(h, pads, , axis)""",
    "axes to be cut": f"{WIDTH} axis = Sub(width, channel) p = Slice(h, zero, six, axis)",
    "a bound": f"{WIDTH} none = Sub(width, width) p = Slice(h, none, six, channel)",
    "parts": f"""{WIDTH} twice = Concat<axis=1>(h, h) w = Sub(width, width) n = Add(six, w)
        parts = Concat<axis=0>(n, n) p, q = Split<axis=1>(twice, parts)""",
}


@pytest.mark.parametrize("name", READ)
def test_channels_are_fixed_where_what_is_taken_of_them_depends_on_the_input(name: str) -> None:
    """In the trace each of these does nothing to the channels, or cuts them where they were put together."""
    assert encoder(READ[name]) == {group(4, ("w2", 0), ("head", 0))}


def test_sliding_windows_by_index() -> None:
    """Windows are looked up in the flattened keys, and scores written into a band of a mask: heads and units pass."""
    graph = """(float[2,8,3] x) => (float[2,2] y) {
        e = MatMul(x, embed) a = MatMul(e, wq) b = MatMul(e, wk) c = MatMul(e, wv)
        a4 = Reshape(a, heads) at = Transpose<perm=[0, 2, 1, 3]>(a4) q = Reshape(at, chunks)
        b4 = Reshape(b, heads) bt = Transpose<perm=[0, 2, 1, 3]>(b4) bf = Reshape(bt, long) k = Gather(bf, windows)
        c4 = Reshape(c, heads) ct = Transpose<perm=[0, 2, 1, 3]>(c4) cf = Reshape(ct, long) v = Gather(cf, windows)
        scores = Einsum<equation="bcxd,bcyd->bcxy">(q, k)
        empty = ConstantOfShape<value = float[1] {-9.0}>(band_shape) band = ScatterND(empty, places, scores)
        p = Softmax(band) own = Slice(p, zero, six, last)
        o = Einsum<equation="bcxy,bcyd->bcxd">(own, v) o4 = Reshape(o, back) ot = Transpose<perm=[0, 2, 1, 3]>(o4)
        m = Reshape(ot, joined) z = MatMul(m, wo) g = Transpose<perm=[0, 2, 1]>(z) s = GlobalAveragePool(g)
        f = Flatten(s) y = MatMul(f, head)
    }"""
    windows = sum(np.ix_(32 * np.arange(4), 8 * np.arange(2), 4 * np.arange(6), np.arange(4)), np.zeros((), np.int64))
    weights: dict[str, Any] = {
        **normal(embed=(3, 6), wq=(6, 8), wk=(6, 8), wv=(6, 8), wo=(8, 6), head=(6, 2)),
        "windows": windows,
        "places": np.stack(np.meshgrid(*map(np.arange, (4, 2, 4, 6)), indexing="ij"), axis=-1),
        "heads": [2, 8, 2, 4],
        "chunks": [4, 2, 4, 4],
        "band_shape": [4, 2, 4, 8],
        "back": [2, 2, 8, 4],
        "joined": [2, 8, 8],
        **{name: INTEGERS[name] for name in ("long", "zero", "six", "last")},
    }
    assert certified_groups(build(graph, weights, check=False)) == {
        group(6, ("embed", 1), ("wq", 0), ("wk", 0), ("wv", 0)),
        group(2, ("wq", 1), ("wk", 1), ("wv", 1), ("wo", 0)),
        group(4, ("wq", 1), ("wk", 1), outer=(2,)),
        group(4, ("wv", 1), ("wo", 0), outer=(2,)),
        group(6, ("wo", 1), ("head", 0)),
    }


SHAPES = {"of no known shape": "i = Cast<to=7>(m)", "of a known shape": "i = Identity(six)"}


@pytest.mark.parametrize("name", SHAPES)
def test_one_value_everywhere_says_nothing(name: str) -> None:
    graph = f"""(float[2,3] x) => (float[2,2] y) {{
        h = MatMul(x, w1) u = Sub(x, x) v = Add(u, size) m = ReduceMax<keepdims=0>(v) {SHAPES[name]}
        n = Reshape(i, long) all = ConstantOfShape<value = float[1] {{0.5}}>(n) p = Mul(h, all) y = MatMul(p, w2)
    }}"""
    weights: dict[str, Any] = {**normal(w1=(3, 6), w2=(6, 2)), "size": np.float32(6), "six": [6], "long": [-1]}
    assert certified_groups(build(graph, weights, check=False)) == {group(6, ("w1", 1), ("w2", 0))}
