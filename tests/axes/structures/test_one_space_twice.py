"""One space in two places of one operator or tensor: what random networks and the corpus found."""

from __future__ import annotations

from tests.axes.structures.expected import certified_groups, group
from tests.graphs import build, normal


def test_a_contracted_space_does_not_vary_with_the_same_space_on_both_sides() -> None:
    """W[i, k] R[k, j] with i and j the same units: k stands beside them in both, but its order is one for all."""
    graph = """(float[n,4] x) => (float[n,4] y) { m = MatMul(w, r) a = MatMul(x, m) y = Add(x, a) }"""
    assert certified_groups(build(graph, normal(w=(4, 5), r=(5, 4)))) == {group(5, ("w", 1), ("r", 0))}


def test_a_product_with_itself_transposed() -> None:
    """A Gram matrix carries the units on both axes; the softmax over one axis leaves the other alone."""
    graph = """(float[1,3,4] x) => (float[1,2] y) {
        a = MatMul(x, w1) t = Transpose<perm=[0, 2, 1]>(a) gram = MatMul(t, a) p = Softmax(gram)
        b = MatMul(a, p) c = MatMul(b, w2) axis = Constant<value=int64[1] {1}>() y = ReduceMean<keepdims=0>(c, axis)
    }"""
    assert certified_groups(build(graph, normal(w1=(4, 6), w2=(6, 2)))) == {group(6, ("w1", 1), ("w2", 0))}


def test_taking_a_part_on_one_axis_leaves_the_other_axis_whole() -> None:
    """A tiled space on both axes of a Gram matrix, of which every second row is taken: even and odd units part."""
    graph = """(float[1,3,4] x) => (float[1,2] y) {
        a = MatMul(x, w1) d = Concat<axis=2>(a, a) t = Transpose<perm=[0, 2, 1]>(d) gram = MatMul(t, d)
        s0 = Constant<value=int64[1] {0}>() s1 = Constant<value=int64[1] {1}>()
        s2 = Constant<value=int64[1] {2}>() end = Constant<value=int64[1] {12}>()
        some = Slice(gram, s0, end, s1, s2) c = MatMul(some, w2) y = ReduceMean<keepdims=0>(c, s1)
    }"""
    assert certified_groups(build(graph, normal(w1=(4, 6), w2=(12, 2)))) == {
        group(3, ("w1", 1), ("w2", 0)),
        group(2, ("w2", 0), outer=(3,)),
    }


def test_parts_of_one_position_keep_their_members_apart() -> None:
    """The batch is cut in two; a learned weight has one order in both halves, though they meet in a product."""
    graph = """(float[2,3,4] x) => (float[1,2] y) {
        a = MatMul(x, w1) halves = Constant<value=int64[2] {1, 1}>() p, q = Split<axis=0>(a, halves)
        t = Transpose<perm=[0, 2, 1]>(p) s = MatMul(q, t) r = MatMul(s, p) c = MatMul(r, w2)
        axis = Constant<value=int64[1] {1}>() y = ReduceMean<keepdims=0>(c, axis)
    }"""
    assert certified_groups(build(graph, normal(w1=(4, 6), w2=(6, 2)))) == {group(6, ("w1", 1), ("w2", 0))}


def test_halves_that_are_one_space_share_what_varies_with_them() -> None:
    """Both halves of a gate share one order; a table over (half, width) can only have one order of widths as well."""
    graph = """(float[1,3,4] x) => (float[1,2] y) {
        last = Constant<value=int64[1] {3}>() a = MatMul(x, w1) u = Unsqueeze(a, last) e = Mul(u, table)
        halves = Constant<value=int64[2] {3, 3}>() p, q = Split<axis=2>(e, halves)
        s = Sigmoid(q) g = Mul(p, s) axes = Constant<value=int64[2] {1, 2}>()
        r = ReduceSum<keepdims=0>(g, axes) y = MatMul(r, w2)
    }"""
    assert certified_groups(build(graph, normal(w1=(4, 6), table=(6, 5), w2=(5, 2)))) == {
        group(3, ("w1", 1), ("table", 0)),
        group(5, ("table", 1), ("w2", 0)),
    }


def test_a_flattened_outer_product_fixes_its_units() -> None:
    """Bilinear pooling: a linear layer reads (unit, unit) on one axis. Free in principle, fixed here."""
    graph = """(float[1,3,4] x) => (float[1,2] y) {
        a = MatMul(x, w1) t = Transpose<perm=[0, 2, 1]>(a) gram = MatMul(t, a) f = Flatten(gram) y = MatMul(f, w2)
    }"""
    assert certified_groups(build(graph, normal(w1=(4, 3), w2=(9, 2)))) == set()


def test_fixed_positions_twice_on_one_axis() -> None:
    """Attention maps between fixed tokens, flattened: (token, token) on one axis, beside a space that moves."""
    graph = """(float[1,3,4] x) => (float[1,2] y) {
        a = MatMul(x, w1) t = Transpose<perm=[0, 2, 1]>(a) map = MatMul(a, t) f = Flatten(map)
        b = MatMul(f, w2) c = Relu(b) y = MatMul(c, w3)
    }"""
    assert certified_groups(build(graph, normal(w1=(4, 6), w2=(9, 5), w3=(5, 2)))) == {
        group(6, ("w1", 1)),
        group(5, ("w2", 1), ("w3", 0)),
    }


def test_a_space_between_two_of_the_same_positions_varies_with_neither() -> None:
    """An axis (token, copy, token): the order of the copies may depend on one token or the other, so on none."""
    graph = """(float[1,3,4] x) => (float[1,2] y) {
        a = MatMul(x, w1) split = Constant<value=int64[4] {1, 3, 2, 3}>() u = Reshape(a, split)
        t = Transpose<perm=[0, 2, 1, 3]>(u) back = Transpose<perm=[0, 1, 3, 2]>(t) s = Add(t, back)
        turned = Transpose<perm=[0, 2, 1, 3]>(s) f = Flatten(turned) y = MatMul(f, w2)
    }"""
    weights = normal(w1=(4, 6), w2=(18, 2))
    assert {size for size, _, _ in certified_groups(build(graph, weights))} <= {2}
