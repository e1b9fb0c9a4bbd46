"""If: both branches are typed where both can be computed, and what one gives is laid out as what the other gives."""

from __future__ import annotations

import numpy as np

from tests.axes.structures.expected import certified_groups, group
from tests.axes.typed import certified
from tests.graphs import build, normal


def test_branches_that_hand_a_value_on_or_negate_it() -> None:
    graph = """(float[n,4] x, bool c) => (float[n,2] y) {
        a = MatMul(x, w1) b = Relu(a)
        d = If (c) <then_branch = one () => (float[n,5] t) { t = Identity(b) },
                    else_branch = two () => (float[n,5] e) { e = Neg(b) }>
        y = MatMul(d, w2)
    }"""
    assert certified_groups(build(graph, normal(w1=(4, 5), w2=(5, 2)))) == {group(5, ("w1", 1), ("w2", 0))}


def test_each_branch_has_weights_of_its_own() -> None:
    """Two experts, one of them taken: they share the units around them, and each has a hidden layer."""
    graph = """(float[n,4] x, bool c) => (float[n,2] y) {
        a = MatMul(x, w1) b = Relu(a)
        d = If (c) <then_branch = one () => (float[n,6] t) { h = MatMul(b, u1) r = Relu(h) t = MatMul(r, u2) },
                    else_branch = two () => (float[n,6] e) { g = MatMul(b, v1) s = Tanh(g) e = MatMul(s, v2) }>
        y = MatMul(d, w2)
    }"""
    weights = normal(w1=(4, 5), u1=(5, 7), u2=(7, 6), v1=(5, 8), v2=(8, 6), w2=(6, 2))
    assert certified_groups(build(graph, weights)) == {
        group(5, ("w1", 1), ("u1", 0), ("v1", 0)),
        group(7, ("u1", 1), ("u2", 0)),
        group(8, ("v1", 1), ("v2", 0)),
        group(6, ("u2", 1), ("v2", 1), ("w2", 0)),
    }


def test_a_squeeze_under_a_condition_on_the_shape() -> None:
    """What PyTorch's exporter makes of ``x.squeeze(1)`` where the size of the axis is not known."""
    graph = """(float[n,t,4] x) => (float[n,2] y) {
        a = MatMul(x, w1) b = Relu(a) p = ReduceMean<keepdims=1>(b, axes)
        s = Shape(p) g = Gather(s, axes) c = Equal(g, axes)
        d = If (c) <then_branch = one () => (float[n,5] t1) { t1 = Squeeze(p, axes) },
                    else_branch = two () => (float[n,u,5] e) { e = Identity(p) }>
        y = MatMul(d, w2)
    }"""
    model = build(graph, {**normal(w1=(4, 5), w2=(5, 2)), "axes": np.array([1])}, check=False)
    assert certified_groups(model) == {group(5, ("w1", 1), ("w2", 0))}


def test_nested_branches() -> None:
    graph = """(float[n,4] x, bool c, bool d) => (float[n,2] y) {
        a = MatMul(x, w1)
        o = If (c) <
            then_branch = one () => (float[n,5] t) {
                t = If (d) <then_branch = three () => (float[n,5] p) { p = Relu(a) },
                            else_branch = four () => (float[n,5] q) { q = Tanh(a) }>
            },
            else_branch = two () => (float[n,5] e) { e = Mul(a, s) }>
        y = MatMul(o, w2)
    }"""
    assert certified_groups(build(graph, normal(w1=(4, 5), s=(5,), w2=(5, 2)))) == {
        group(5, ("w1", 1), ("s", 0), ("w2", 0))
    }


def test_a_branch_that_reads_positions_fixes_them_for_the_other() -> None:
    graph = """(float[n,4] x, bool c) => (float[n,2] y) {
        a = MatMul(x, w1) b = Relu(a)
        d = If (c) <then_branch = one () => (float[n,5] t) { t = Identity(b) },
                    else_branch = two () => (float[n,5] e) { e = CumSum(b, axis) }>
        y = MatMul(d, w2)
    }"""
    found = certified(build(graph, {**normal(w1=(4, 5), w2=(5, 2)), "axis": np.array(1)}))
    assert found.groups == ()
    assert any("CumSum" in axis.reason for axis in found.fixed)


def test_a_branch_that_cannot_be_computed_here_fixes_what_it_captures() -> None:
    graph = """(float[n,4] x, bool c) => (float[n,2] y) {
        a = MatMul(x, w1) b = Relu(a) h = MatMul(b, w2) r = Relu(h)
        d = If (c) <then_branch = one () => (float[n,5] t) { t = Identity(r) },
                    else_branch = two () => (float[n,5] e) { u = Reshape(r, wrong) e = Mul(u, s) }>
        y = MatMul(d, w3)
    }"""
    weights = {**normal(w1=(4, 6), w2=(6, 5), s=(5,), w3=(5, 2)), "wrong": np.array([7, 5])}
    model = build(graph, weights, check=False)
    found = certified(model)
    assert {(g.size, g.initializers[0].name) for g in found.groups} == {(6, "w1")}
    assert any("captured by the body of If" in axis.reason for axis in found.fixed)
