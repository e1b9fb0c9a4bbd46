"""Recurrent layers: one space of hidden units behind all gates, apart in each direction."""

from __future__ import annotations

import numpy as np
import pytest

from tests.axes.structures.expected import certified_groups, group
from tests.graphs import build, normal


def test_lstm_gates_peepholes_states_and_head_are_one_space() -> None:
    graph = """(float[5,2,3] x) => (float[2,2] y) {
        h, last_h, last_c = LSTM<hidden_size=4>(x, w, r, b, , h0, c0, p)
        zero = Constant<value=int64[1] {0}>()
        flat = Squeeze(last_h, zero)
        memory = Squeeze(last_c, zero)
        both = Add(flat, memory)
        y = MatMul(both, head)
    }"""
    weights = normal(w=(1, 16, 3), r=(1, 16, 4), b=(1, 32), h0=(1, 2, 4), c0=(1, 2, 4), p=(1, 12), head=(4, 2))
    places = {("w", 1), ("r", 1), ("r", 2), ("b", 1), ("h0", 2), ("c0", 2), ("p", 1), ("head", 0)}
    assert certified_groups(build(graph, weights)) == {group(4, *places)}


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_directions_move_apart(operator: str, gates: int) -> None:
    """Two stacked bidirectional layers: the second reads (direction, unit), and each direction has its own order."""
    graph = f"""(float[5,n,3] x) => (float[n,2] y) {{
        h1, e1 = {operator}<hidden_size=4, direction="bidirectional">(x, w1, r1, b1)
        t1 = Transpose<perm=[0, 2, 1, 3]>(h1)
        s1 = Constant<value=int64[3] {{0, 0, -1}}>()
        f1 = Reshape(t1, s1)
        h2, e2 = {operator}<hidden_size=5, direction="bidirectional">(f1, w2, r2, b2)
        t2 = Transpose<perm=[0, 2, 1, 3]>(h2)
        f2 = Reshape(t2, s1)
        zero = Constant<value=int64 {{0}}>()
        first = Gather<axis=0>(f2, zero)
        y = MatMul(first, head)
    }}"""
    weights = normal(
        w1=(2, gates * 4, 3),
        r1=(2, gates * 4, 4),
        b1=(2, 2 * gates * 4),
        w2=(2, gates * 5, 8),
        r2=(2, gates * 5, 5),
        b2=(2, 2 * gates * 5),
        head=(10, 2),
    )
    first = {("w1", 1), ("r1", 1), ("r1", 2), ("b1", 1), ("w2", 2)}
    second = {("w2", 1), ("r2", 1), ("r2", 2), ("b2", 1), ("head", 0)}
    assert certified_groups(build(graph, weights)) == {group(4, *first, outer=(2,)), group(5, *second, outer=(2,))}


def test_states_that_leave_the_model_fix_the_hidden_units() -> None:
    """A streaming network hands its state to its caller, who hands it back: the order is part of the interface."""
    graph = """(float[1,n,3] x, float[1,n,4] state) => (float[1,n,2] y, float[1,n,4] next) {
        h, next = GRU<hidden_size=4>(x, w, r, b, , state)
        zero = Constant<value=int64[1] {1}>() flat = Squeeze(h, zero)
        a = MatMul(flat, w1) c = Relu(a) y = MatMul(c, w2)
    }"""
    weights = normal(w=(1, 12, 3), r=(1, 12, 4), b=(1, 24), w1=(4, 6), w2=(6, 2))
    assert certified_groups(build(graph, weights)) == {group(6, ("w1", 1), ("w2", 0))}


def test_unrolled_gru_cell() -> None:
    """Two steps written out with MatMul and Split: gates, state and both steps share one space."""
    step = """
        gx{t} = MatMul(x, wx) gh{t} = MatMul(h{t}, wh)
        rx{t}, zx{t}, nx{t} = Split<axis=1>(gx{t}, thirds) rh{t}, zh{t}, nh{t} = Split<axis=1>(gh{t}, thirds)
        rs{t} = Add(rx{t}, rh{t}) r{t} = Sigmoid(rs{t}) zs{t} = Add(zx{t}, zh{t}) z{t} = Sigmoid(zs{t})
        rn{t} = Mul(r{t}, nh{t}) ns{t} = Add(nx{t}, rn{t}) n{t} = Tanh(ns{t})
        d{t} = Sub(h{t}, n{t}) m{t} = Mul(z{t}, d{t}) h{u} = Add(n{t}, m{t})
    """
    graph = f"""(float[n,3] x) => (float[n,2] y) {{
        thirds = Constant<value=int64[3] {{4, 4, 4}}>()
        h0 = MatMul(x, start)
        {step.replace("{t}", "0").replace("{u}", "1")}
        {step.replace("{t}", "1").replace("{u}", "2")}
        y = MatMul(h2, head)
    }}"""
    weights = normal(start=(3, 4), wx=(3, 12), wh=(4, 12), head=(4, 2))
    places = {("start", 1), ("wx", 1), ("wh", 0), ("wh", 1), ("head", 0)}
    assert certified_groups(build(graph, weights)) == {group(4, *places)}


def test_selective_scan() -> None:
    """Mamba's scan over three steps: channels are one space, states another, both on the transition matrix."""
    step = """
        xt{t} = Slice(u, s{t}, s{u}, time) dt{t} = Slice(delta, s{t}, s{u}, time)
        bt{t} = Slice(b, s{t}, s{u}, time) ct{t} = Slice(c, s{t}, s{u}, time)
        xe{t} = Transpose<perm=[0, 2, 1]>(xt{t}) de{t} = Transpose<perm=[0, 2, 1]>(dt{t})
        da{t} = Mul(de{t}, a) decay{t} = Exp(da{t})
        db{t} = Mul(de{t}, bt{t}) input{t} = Mul(db{t}, xe{t})
        kept{t} = Mul(h{t}, decay{t}) h{u} = Add(kept{t}, input{t})
        hc{t} = Mul(h{u}, ct{t}) o{t} = ReduceSum<keepdims=0>(hc{t}, two)
        y{u} = Add(y{t}, o{t})
    """
    steps = "".join(step.replace("{t}", str(t)).replace("{u}", str(t + 1)) for t in range(3))
    bounds = " ".join(f"s{t} = Constant<value=int64[1] {{{t}}}>()" for t in range(4))
    graph = f"""(float[n,3,5] x) => (float[n,2] y) {{
        {bounds} time = Constant<value=int64[1] {{1}}>() two = Constant<value=int64[1] {{2}}>()
        pre = MatMul(x, w_in) u = Sigmoid(pre)
        low = MatMul(u, w_dt) step = MatMul(low, w_up) delta = Softplus(step) b = MatMul(u, w_b) c = MatMul(u, w_c)
        h0 = Constant<value=float {{0}}>() y0 = Constant<value=float {{0}}>()
        {steps}
        y = MatMul(y3, w_out)
    }}"""
    weights = normal(w_in=(5, 6), w_dt=(6, 2), w_up=(2, 6), w_b=(6, 4), w_c=(6, 4), a=(6, 4), w_out=(6, 2), scale=0.3)
    channels = {("w_in", 1), ("w_dt", 0), ("w_up", 1), ("w_b", 0), ("w_c", 0), ("a", 0), ("w_out", 0)}
    assert certified_groups(build(graph, weights)) == {
        group(6, *channels),
        group(4, ("w_b", 1), ("w_c", 1), ("a", 1)),
        group(2, ("w_dt", 1), ("w_up", 0)),
    }


def test_a_recurrence_written_step_by_step_into_one_tensor() -> None:
    """``out[:, t] = state`` in an unrolled loop: every write gives the same axis, not one that steps vary with anew."""
    steps = 14
    lines = ["o0 = ConstantOfShape(shape)", "s0 = Gather<axis=1>(k, i0)"]
    for t in range(steps):
        lines.append(f"k{t} = Gather<axis=1>(k, i{t}) s{t + 1} = Max(s{t}, k{t}) v{t} = Gather<axis=1>(o{t}, i{t})")
        lines.append(f"z{t} = Shape(v{t}) e{t} = Expand(s{t + 1}, z{t}) o{t + 1} = ScatterND(o{t}, at{t}, e{t})")
    body = " ".join(lines)
    graph = f"(float[1,{steps},4] x) => (float[1,{steps},2] y) {{ k = MatMul(x, w1) {body} y = MatMul(o{steps}, w2) }}"
    constants = {f"i{t}": np.array(t) for t in range(steps)} | {f"at{t}": np.array([[0, t]]) for t in range(steps)}
    model = build(graph, {**normal(w1=(4, 5), w2=(5, 2)), **constants, "shape": np.array([1, steps, 5])}, check=False)
    assert certified_groups(model) == {group(5, ("w1", 1), ("w2", 0))}
