"""Scan and Loop: the steps that they take are typed one after another, so a state keeps its units throughout."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.model.hoist import trace_inside
from onnxmerge.model.read import read_network
from onnxmerge.model.session import open_session
from tests.axes.structures.expected import certified_groups, group
from tests.axes.typed import certified
from tests.graphs import build, normal

ELMAN = """(float[7,n,4] x) => (float[n,2] y, float[7,n,2] z) {
    h0 = Expand(zero, width)
    last, all = Scan<num_scan_inputs=1, DIRECTIONS body=step (float[n,5] h, float[n,4] xt) =>
        (float[n,5] hn, float[n,5] out) { a = MatMul(xt, u) b = MatMul(h, v) c = Add(a, b) hn = Tanh(c)
                                         out = Identity(hn) }>(h0, x)
    y = MatMul(last, w) z = MatMul(all, w)
}"""


@pytest.mark.parametrize(
    ("directions", "opset"),
    [("", 21), ("scan_input_directions=[1],", 21), ("scan_output_directions=[1],", 21), ("", 9)],
)
def test_recurrent_layer_written_as_a_scan(directions: str, opset: int) -> None:
    weights = {**normal(u=(4, 5), v=(5, 5), w=(5, 2)), "zero": np.array(0, np.float32), "width": np.array([3, 5])}
    graph = ELMAN.replace("DIRECTIONS", directions).replace("[7,n", "[7,3").replace("[n", "[3")
    model = build(graph, weights, opset=opset)
    assert certified_groups(model) == {group(5, ("u", 1), ("v", 0), ("v", 1), ("w", 0))}
    network = read_network(model)
    found = trace_inside(network)
    unrolled = found.network
    assert not any(node.op_type == "Scan" for node in unrolled.graph)
    one, other = (open_session(net.model).run(found.sample) for net in (network, unrolled))
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6)


def test_too_few_steps_prove_nothing_about_more() -> None:
    """After one step the rows of ``v`` have only met zeros; after another they will not have."""
    graph = ELMAN.replace("DIRECTIONS", "").replace("[7,n", "[2,3").replace("[n", "[3")
    weights = {**normal(u=(4, 5), v=(5, 5), w=(5, 2)), "zero": np.array(0, np.float32), "width": np.array([3, 5])}
    found = certified(build(graph, weights))
    assert not any(place.name in {"u", "v"} for g in found.groups for place in g.initializers)


LOOP = """(float[n,4] x) => (float[n,2] y, float[k,n,2] z) {
    a = MatMul(x, w1)
    d, all = Loop (count, , a) <body = each (int64 i, bool k, float[n,5] p) =>
        (bool l, float[n,5] q, float[n,5] r) { l = Identity(k) s = MatMul(p, m) q = Relu(s) r = Mul(q, g) }>
    y = MatMul(d, w2) z = MatMul(all, w2)
}"""


def test_weights_shared_by_all_steps_of_a_loop() -> None:
    weights = {**normal(w1=(4, 5), m=(5, 5), g=(5,), w2=(5, 2)), "count": np.array(4)}
    model = build(LOOP, weights, check=False)
    assert certified_groups(model) == {group(5, ("w1", 1), ("m", 0), ("m", 1), ("g", 0), ("w2", 0))}


def test_a_loop_of_which_nobody_reads_one_output() -> None:
    graph = (
        LOOP.replace(", float[k,n,2] z)", ")")
        .replace("z = MatMul(all, w2)", "")
        .replace("d, all = Loop", "d, unread = Loop")
    )
    weights = {**normal(w1=(4, 5), m=(5, 5), g=(5,), w2=(5, 2)), "count": np.array(4)}
    model = build(graph, weights, check=False)
    assert certified_groups(model) == {group(5, ("w1", 1), ("m", 0), ("m", 1), ("g", 0), ("w2", 0))}


def test_a_loop_that_looks_positions_up_by_its_step_fixes_them() -> None:
    """Each step adds one of the state's own units to all of them: their order matters."""
    graph = LOOP.replace("s = MatMul(p, m)", "e = Gather<axis=1>(p, i) f = Unsqueeze(e, one) s = Add(p, f)")
    weights = {**normal(w1=(4, 5), g=(5,), w2=(5, 2)), "count": np.array(3), "one": np.array([1])}
    found = certified(build(graph, weights, check=False))
    assert all(g.size < 5 for g in found.groups)


def test_a_loop_that_ends_itself_fixes_what_it_captures() -> None:
    graph = """(float[n,4] x) => (float[n,2] y) {
        a = MatMul(x, w1) b = Relu(a)
        d = Loop (count, go, b) <body = each (int64 i, bool k, float[n,5] p) => (bool l, float[n,5] q) {
            l = Less(i, stop) q = Add(p, b) }>
        y = MatMul(d, w2)
    }"""
    constants = {"count": np.array(9), "go": np.array(True), "stop": np.array(2)}  # noqa: FBT003
    found = certified(build(graph, {**normal(w1=(4, 5), w2=(5, 2)), **constants}))
    assert found.groups == ()
    assert any("captured by the body of Loop" in axis.reason for axis in found.fixed)
