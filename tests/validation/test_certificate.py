"""The certificate passes on typings that hold, fails loudly on those that do not, and never passes on nothing."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxmerge.axes.infer import type_graph
from onnxmerge.model import stretches
from onnxmerge.model.comparison import Limits, compare
from onnxmerge.model.network import Network
from onnxmerge.model.read import read_network
from onnxmerge.model.session import open_session
from onnxmerge.model.trace import trace
from onnxmerge.units.layout import Space, Typing
from onnxmerge.validation.certificate import (
    Certificate,
    border_tensors,
    certify,
    moving_permutations,
    permute_network,
    randomised,
)
from tests.graphs import batchnorm, build, normal
from tests.layouts import typed

MLP = "(float[n,4] x) => (float[n,3] y) { h = Gemm(x, w, b)  r = Relu(h)  y = MatMul(r, v) }"
HIDDEN = {"h": ["2", "u"], "r": ["2", "u"], "y": ["2", "3"]}

INSIDE = {"w": ["4", "u"], "b": ["u"], "v": ["u", "3"]}, {**HIDDEN, "z": ["2", "3"]}
"""The layouts of a network whose batch is fixed by what is inside."""


def network(text: str, weights: Any, **options: Any) -> Network:
    return read_network(build(text, weights, **options))


def mlp(dtype: Any = np.float32) -> Network:
    text = MLP if dtype == np.float32 else MLP.replace("float[", f"{np.dtype(dtype).name}[")
    weights = {name: value.astype(dtype) for name, value in normal(w=(4, 8), b=(8,), v=(8, 3)).items()}
    return network(text, weights)


def mlp_typing(*, bias: str = "u") -> Typing:
    return typed([Space("u", 8)], {"w": ["4", "u"], "b": [bias], "v": ["u", "3"]}, HIDDEN)


def certificate(net: Network, typing: Typing, **options: Any) -> Certificate:
    return certify(typing, trace(net), **options)


def test_a_typing_that_holds_passes() -> None:
    found = certificate(mlp(), mlp_typing(), samples=3)
    assert found.passed
    assert found.failure is None
    assert found.max_relative_error < 1e-6
    assert (found.tensors_compared, found.values_compared) == (1, 3 * 2 * 3)
    assert found.tolerance == 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 2e-2), (ml_dtypes.bfloat16, 1e-1)])
def test_half_precision_is_given_more_room(dtype: Any, tolerance: float) -> None:
    found = certificate(mlp(dtype), mlp_typing())
    assert found.passed, found.failure
    assert found.tolerance == tolerance


def test_a_bias_typed_as_fixed_fails_and_the_operator_is_named() -> None:
    found = certificate(mlp(), mlp_typing(bias="8"))
    assert not found.passed
    assert found.max_relative_error > 1e-2
    assert found.failure is not None
    assert "tensor h is the first to be wrong" in found.failure
    assert "(Gemm)" in found.failure


def test_a_wrong_signature_in_the_middle_names_its_operator() -> None:
    """CumSum along the units typed as elementwise: what is before it is right, and so is what is behind it."""
    text = """(float[n,4] x) => (float[n,3] y) {
        h = MatMul(x, w)  c = CumSum(h, one)  r = Relu(c)  y = MatMul(r, v) }"""
    net = network(text, {**normal(w=(4, 8), v=(8, 3)), "one": np.array(1, np.int64)})
    typing = typed([Space("u", 8)], {"w": ["4", "u"], "v": ["u", "3"]}, {**HIDDEN, "c": ["2", "u"]})
    found = certificate(net, typing)
    assert not found.passed
    assert found.failure is not None
    assert "tensor c is the first" in found.failure
    assert "(CumSum)" in found.failure


def test_outputs_that_hide_everything_do_not_hide_it_from_the_border() -> None:
    text = "(float[n,4] x) => (int64[n,1] y) { h = Gemm(x, w, b)  z = MatMul(h, v)  y = ArgMax<axis=1>(z) }"
    net = network(text, {**normal(w=(4, 8), v=(8, 3)), "b": np.arange(8, dtype=np.float32)})
    right = typed([Space("u", 8)], {"w": ["4", "u"], "b": ["u"], "v": ["u", "3"]}, {"h": ["2", "u"], "z": ["2", "3"]})
    wrong = typed([Space("u", 8)], {"w": ["4", "u"], "b": ["8"], "v": ["u", "3"]}, {"h": ["2", "u"], "z": ["2", "3"]})
    assert list(border_tensors(net.graph, right, trace(net))) == ["z"]
    assert certificate(net, right).passed
    assert not certificate(net, wrong).passed


def test_nothing_compared_is_no_success() -> None:
    net = network("(float[n,4] x) => (int64[n,1] y) { y = ArgMax<axis=1>(x) }", {})
    found = certificate(net, Typing({}, {}, {}))
    assert not found.passed
    assert found.values_compared == 0
    assert found.failure is not None
    assert "nothing was compared" in found.failure


def test_statistics_that_are_equal_now_are_randomised() -> None:
    """Fresh statistics of zeros and ones would hide that they are typed wrong."""
    weights = {**normal(w=(4, 8), v=(8, 3)), **batchnorm("n", 8)}
    weights |= {"n_mean": np.zeros(8, np.float32), "n_var": np.ones(8, np.float32)}
    net = network(
        """(float[n,4] x) => (float[n,3] y) {
        h = MatMul(x, w)  r = BatchNormalization(h, n_scale, n_bias, n_mean, n_var)  y = MatMul(r, v) }""",
        weights,
    )
    layouts = {"w": ["4", "u"], "v": ["u", "3"], "n_scale": ["u"], "n_bias": ["u"], "n_mean": ["u"], "n_var": ["u"]}
    right = typed([Space("u", 8)], layouts, HIDDEN, ["n_mean", "n_var"])
    wrong = typed([Space("u", 8)], {**layouts, "n_var": ["8"]}, HIDDEN, ["n_mean", "n_var"])
    drawn = randomised(net.weights, right, 0)
    assert np.all(drawn["n_var"] > 0)
    assert np.std(drawn["n_mean"]) > 0
    np.testing.assert_array_equal(drawn["n_scale"], net.weights["n_scale"])
    assert certificate(net, right).passed
    found = certificate(net, wrong)
    assert found.failure is not None
    assert "(BatchNormalization)" in found.failure


def test_other_weights_on_the_same_graph() -> None:
    weights = {name: 2 * value for name, value in mlp().weights.items()}
    assert certificate(mlp(), mlp_typing(), weights=weights).passed


def test_equal_patterns_of_nan_and_inf_are_equal() -> None:
    net = network(
        "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w)  r = Log(h)  y = MatMul(r, v) }",
        normal(w=(4, 8), v=(8, 3)),
    )
    typing = typed([Space("u", 8)], {"w": ["4", "u"], "v": ["u", "3"]}, HIDDEN)
    assert "nothing was compared" in (certificate(net, typing).failure or "passed")


LIMITS = Limits(tolerance=1e-4, rounding=1e-8)


def test_compare() -> None:
    one = np.array([1.0, -4.0, np.nan, np.inf])
    same = compare(one, one.copy(), LIMITS)
    assert (same.absolute, same.relative, same.values, same.same) == (0.0, 0.0, 2, True)
    assert compare(one, one + np.array([0.0, 0.4, 0.0, 0.0]), LIMITS).relative == pytest.approx(0.1)
    assert not compare(one, np.array([1.0, -4.0, np.inf, np.nan]), LIMITS).same
    assert not compare(one, one[:2], LIMITS).same
    assert not compare(np.array([1, 2]), np.array([2, 1]), LIMITS).same


def test_what_is_all_rounding_is_not_counted_and_does_not_fail() -> None:
    tiny = np.full(3, 1e-9)
    rounding = compare(tiny, 2 * tiny, LIMITS)
    assert rounding.values == 0
    assert not rounding.differs(LIMITS)
    small = compare(1e3 * tiny, 2e3 * tiny, LIMITS)
    assert small.values == 3
    assert small.differs(LIMITS)
    assert compare(np.zeros(2), np.ones(2), LIMITS).differs(LIMITS)


def test_a_scalar_input() -> None:
    net = network(
        "(float[n,4] x, float s) => (float[n,3] y) { z = Mul(x, s)  h = MatMul(z, w)  y = MatMul(h, v) }",
        normal(w=(4, 8), v=(8, 3)),
    )
    typing = typed([Space("u", 8)], {"w": ["4", "u"], "v": ["u", "3"]}, {"h": ["2", "u"], "y": ["2", "3"]})
    assert certificate(net, typing).passed


@pytest.mark.parametrize("seed", range(6))
def test_permutations_always_move_something(seed: int) -> None:
    spaces = {"two": Space("two", 2), "in": Space("in", 2, ("two",)), "one": Space("one", 1)}
    perms = moving_permutations(spaces, seed)
    assert perms["two"].tolist() == [1, 0]
    assert sorted(perms["in"].tolist()) == [[0, 1], [1, 0]]
    assert perms["one"].tolist() == [0]


def test_a_permuted_network_computes_the_same() -> None:
    net = mlp()
    weights = permute_network(net, mlp_typing(), seed=7)
    assert not np.array_equal(weights["w"], net.weights["w"])
    feed = {"x": np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)}
    before, after = (open_session(net.model, weights=each).run(feed)["y"] for each in (None, weights))
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(weights["w"], permute_network(net, mlp_typing(), seed=7)["w"])


STEEP = "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w) r = Relu(h) z = MatMul(r, v) s = Mul(z, k) y = Sin(s) }"


def steep() -> Network:
    """A network that makes more of float32's rounding than any tolerance allows."""
    return network(STEEP, {**normal(w=(4, 64), v=(64, 3)), "k": np.float32(1e5)})


def steep_typing(*, second: str = "u") -> Typing:
    hidden = {"h": ["2", "u"], "r": ["2", "u"], "z": ["2", "3"], "s": ["2", "3"], "y": ["2", "3"]}
    return typed([Space("u", 64)], {"w": ["4", "u"], "v": [second, "3"]}, hidden)


def test_float64_decides_where_float32_cannot() -> None:
    found = certificate(steep(), steep_typing())
    assert found.passed
    assert found.tolerance == 1e-9
    assert found.max_relative_error < 1e-9


def test_float64_does_not_excuse_an_error() -> None:
    found = certificate(steep(), steep_typing(second="64"))
    assert not found.passed
    assert found.max_relative_error > 1e-2


def test_a_large_network_is_proved_on_one_sample_by_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "LARGE", 0)
    found = certificate(mlp(), mlp_typing(), samples=3)
    assert found.passed
    assert (found.tensors_compared, found.values_compared) == (1, 3)
    wrong = certificate(mlp(), mlp_typing(bias="8"))
    assert not wrong.passed
    assert wrong.failure is not None
    assert "tensor h is the first to be wrong" in wrong.failure


def test_a_large_network_gets_all_rows_where_one_will_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "LARGE", 0)
    weights = {**normal(w=(4, 8), b=(8,), v=(8, 3)), "two": np.array([2, 3])}
    inside = network(MLP.replace("y = MatMul(r, v)", "z = MatMul(r, v) y = Reshape(z, two)"), weights, check=False)
    found = certificate(inside, typed([Space("u", 8)], *INSIDE))
    assert (found.passed, found.values_compared) == (True, 2 * 2 * 3)
    units = network(MLP.replace("float[n,3] y", "float[n,3] y, float[n,8] r"), normal(w=(4, 8), b=(8,), v=(8, 3)))
    found = certificate(units, mlp_typing())  # heads read r, in whatever order its units are
    assert (found.passed, found.values_compared) == (True, 2 * 3 + 2 * 8)


def test_a_large_network_gets_all_rows_where_one_row_has_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Centred over the batch, one row alone is zero, so that a wrong bias of this branch would show nowhere."""
    monkeypatch.setattr(stretches, "LARGE", 0)
    text = (
        "(float[n,4] x) => (float[n,3] y) { h = Gemm(x, w, b) m = ReduceMean<axes=[0], keepdims=1>(h) d = Sub(h, m)"
        " r = Relu(d) z = MatMul(r, v) s = MatMul(x, u) y = Add(z, s) }"
    )
    layouts = {"h": ["2", "u"], "m": ["1", "u"], "d": ["2", "u"], "r": ["2", "u"], "z": ["2", "3"], "y": ["2", "3"]}
    centred = network(text, normal(w=(4, 8), b=(8,), v=(8, 3), u=(4, 3)), opset=17)
    tensors = {"w": ["4", "u"], "b": ["u"], "v": ["u", "3"], "u": ["4", "3"]}
    found = certificate(centred, typed([Space("u", 8)], tensors, layouts))
    assert (found.passed, found.tensors_compared) == (True, 2)
    assert not certificate(centred, typed([Space("u", 8)], {**tensors, "v": ["8", "3"]}, layouts)).passed


@pytest.mark.parametrize(
    "end",
    [
        "z = RandomNormalLike(t)  y = Add(t, z)",  # each version draws the same
        "p = Optional<type=float[2]>()  q = OptionalHasElement(p)  c = Cast<to=1>(q)  y = Add(t, c)",
    ],
)
def test_values_that_are_drawn_or_absent_are_no_difference(end: str) -> None:
    text = f"(float[n,4] x) => (float[n,3] y) {{ h = MatMul(x, w)  r = Relu(h)  t = MatMul(r, v)  {end} }}"
    net = network(text, normal(w=(4, 6), v=(6, 3)))
    found = trace(net)
    certificate = certify(type_graph(net, found, (net.weights,)), found)
    assert certificate.passed, certificate.failure
    assert certificate.max_absolute_error > 0  # nothing had to be decided in double
