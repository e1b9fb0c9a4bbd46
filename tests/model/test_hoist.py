"""Hoisting leaves a network that computes the same, in which the branches' tensors can be looked at."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.model.hoist import hoist, trace_inside
from onnxmerge.model.read import read_network
from onnxmerge.model.session import open_session
from tests.graphs import build, normal

GRAPH = """(float[n,4] x, bool c, bool d) => (float[n,5] y) {
    a = MatMul(x, w)
    y = If (c) <
        then_branch = one () => (float[n,5] t) {
            r = Relu(a)
            t = If (d) <then_branch = three () => (float[n,5] p) { p = Tanh(r) },
                        else_branch = four () => (float[n,5] q) { q = Mul(r, s) }>
        },
        else_branch = two () => (float[n,5] e) { e = Neg(a) }>
}"""


@pytest.mark.parametrize("c", [True, False])
@pytest.mark.parametrize("d", [True, False])
def test_the_hoisted_network_computes_the_same(c: bool, d: bool) -> None:  # noqa: FBT001
    network = read_network(build(GRAPH, normal(w=(4, 5), s=(5,))))
    before = network.graph.num_nodes()
    hoisted, origins = hoist(network)
    feeds = {"x": np.ones((3, 4), np.float32), "c": np.array(c), "d": np.array(d)}
    one, other = (open_session(net.model).run(feeds)["y"] for net in (network, hoisted))
    np.testing.assert_array_equal(one, other)
    assert network.graph.num_nodes() == before
    assert {branch for _, branch in origins.values()} == {"then_branch", "else_branch"}
    assert {"r", "p", "q", "e"} <= {value.name for node in hoisted.graph for value in node.outputs}


def test_the_trace_has_the_tensors_of_both_branches() -> None:
    found = trace_inside(read_network(build(GRAPH, normal(w=(4, 5), s=(5,)))))
    assert {name: found.shapes[name][1:] for name in ("p", "q", "e")} == {"p": (5,), "q": (5,), "e": (5,)}


def test_a_branch_that_fails_stays_and_the_others_do_not() -> None:
    graph = """(float[n,4] x, bool c) => (float[n,5] y) {
        a = MatMul(x, w)
        y = If (c) <then_branch = one () => (float[n,5] t) { t = Neg(a) },
                    else_branch = two () => (float[n,5] e) { u = Reshape(a, wrong) e = Relu(u) }>
    }"""
    network = read_network(build(graph, {**normal(w=(4, 5)), "wrong": np.array([7, 5])}, check=False))
    found = trace_inside(network, {"x": np.ones((2, 4), np.float32), "c": np.array(True)})  # noqa: FBT003
    assert "t" in found.shapes
    assert "u" not in found.shapes
    assert {node.op_type for node in found.network.graph} == {"MatMul", "Neg", "If"}


def test_a_network_without_branches_is_itself() -> None:
    network = read_network(build("(float[n,4] x) => (float[n,5] y) { y = MatMul(x, w) }", normal(w=(4, 5))))
    assert trace_inside(network).network is network


def test_another_sample_is_tried_for_the_sake_of_a_branch_with_weights() -> None:
    """Two front ends for two rates: the second needs windows of 96 from a signal that is a multiple of 96."""
    graph = """(float[n,t] x, bool c) => (float[n,k,5] y) {
        y = If (c) <then_branch = one () => (float[n,k1,5] p) { r = Reshape(x, first) p = MatMul(r, w) },
                    else_branch = two () => (float[n,k2,5] q) { s = Reshape(x, second) q = MatMul(s, v) }>
    }"""
    constants = {"first": np.array([0, -1, 64]), "second": np.array([0, -1, 96])}
    network = read_network(build(graph, {**normal(w=(64, 5), v=(96, 5)), **constants}, check=False))
    found = trace_inside(network)
    assert {"p", "q"} <= found.shapes.keys()
    assert found.sample["x"].shape[1] == 576
    fixed = trace_inside(network, {"x": np.ones((2, 128), np.float32), "c": np.array(True)})  # noqa: FBT003
    assert found.network.graph.num_nodes() > fixed.network.graph.num_nodes()
