"""A network that is run by stretches gives what it gives as a whole."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxmerge.errors import InputError
from onnxmerge.model import read_network, stretches
from onnxmerge.model.session import Session, open_session
from onnxmerge.model.stretches import arrays, is_large, run_by_stretches
from tests.graphs import build, normal

RESIDUAL = """(float[n,4] x) => (float[n,4] y) {
    a = MatMul(x, w) b = Relu(a) c = MatMul(b, v) d = Add(c, x) e = MatMul(d, w) y = Add(e, b) }"""
BRANCH = """(float[n,4] x) => (float[n,4] y) {
    a = MatMul(x, w) s = ReduceSum<keepdims=0>(a) q = Greater(s, zero)
    b = If(q) <then_branch = t () => (float[n,4] p) { p = MatMul(a, v) },
               else_branch = f () => (float[n,4] r) { r = Add(a, x) }>
    y = MatMul(b, w) }"""
SEQUENCE = """(float[n,4] x) => (float[n,2] y) {
    a = MatMul(x, w) parts = SplitToSequence<axis=1>(a, two) b = MatMul(x, v) c = SequenceAt(parts, one)
    d = MatMul(b, u) y = Add(c, d) }"""
TEXT = """(float[n,4] x) => (float[n,4] y, string[n,4] z) {
    a = MatMul(x, w) z = Cast<to=8>(a) b = MatMul(a, v) y = Identity(b) }"""
QUANTISED = """(float[n,4] x) => (float[n,4] y) {
    d = DequantizeLinear(w, scale, point) a = MatMul(x, d) y = MatMul(a, v) }"""
INTEGERS = {"scale": np.float32(0.5), "w": np.arange(16, dtype=np.int8).reshape(4, 4), "point": np.int8(3)}
GIVEN = "(float[n,4] x) => (float[n,4] y, float[n,4] x, float[4,4] v) { y = MatMul(x, w) }"

WEIGHTS = normal(w=(4, 4), v=(4, 4), u=(4, 2))
NUMBERS = {"zero": np.float32(0), "one": np.int64(1), "two": np.int64(2)}


def outputs(graph: str, **weights: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a network gives as a whole, and by stretches of one weight each."""
    known = {**WEIGHTS, **NUMBERS, **weights}
    network = read_network(build(graph, {name: value for name, value in known.items() if name in graph}))
    feed = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}
    found: dict[str, Any] = {}
    names = [str(value.name) for value in network.graph.outputs]
    for number, (values,) in run_by_stretches(network.model, [{}], [feed], names, stretch=1):
        assert number == 0
        assert not found.keys() & values.keys()
        found |= arrays(values)
    return open_session(network.model).run(feed), found


@pytest.mark.parametrize("graph", [RESIDUAL, BRANCH, SEQUENCE, TEXT, GIVEN])
def test_stretches_give_what_the_whole_gives(graph: str) -> None:
    whole, found = outputs(graph)
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(found[name], value)


def test_bfloat16_runs_in_float32_as_in_a_session() -> None:
    graph = (
        "(float[n,4] x) => (float[n,4] y) { h = Cast<to=16>(x) a = MatMul(h, w) b = MatMul(a, v) y = Cast<to=1>(b) }"
    )
    narrow = {name: np.asarray(WEIGHTS[name]).astype(ml_dtypes.bfloat16) for name in ("w", "v")}
    whole, found = outputs(graph, **narrow)
    np.testing.assert_array_equal(found["y"], whole["y"])


def test_every_version_is_run_on_every_feed() -> None:
    network = read_network(build(RESIDUAL, {name: WEIGHTS[name] for name in ("w", "v")}))
    feeds = [{"x": np.full((2, 4), number, np.float32)} for number in (1.0, 2.0)]
    versions = [{"w": np.asarray(WEIGHTS["w"], np.float32) * scale} for scale in (1, 2)]
    found: dict[tuple[int, int], dict[str, Any]] = {(number, place): {} for number in (0, 1) for place in (0, 1)}
    for number, values in run_by_stretches(network.model, versions, feeds, ["b", "y"], stretch=1):
        for place, each in enumerate(values):
            found[number, place].update(arrays(each))
    for (number, place), own in found.items():
        whole = open_session(network.model, weights=versions[place], outputs=["b", "y"]).run(feeds[number])
        assert own.keys() == whole.keys()
        for name, value in whole.items():
            np.testing.assert_array_equal(own[name], value)


@pytest.mark.parametrize(("feed", "told"), [({}, "input 'x' is missing"), ({"x": 0, "z": 0}, "has no input 'z'")])
def test_wrong_inputs_are_named(feed: dict[str, Any], told: str) -> None:
    network = read_network(build(RESIDUAL, {name: WEIGHTS[name] for name in ("w", "v")}))
    given = {name: np.ones((2, 4), np.float32) for name in feed}
    with pytest.raises(InputError, match=told):
        list(run_by_stretches(network.model, [{}], [given], ["y"]))


@pytest.mark.parametrize("fed", [True, False])
def test_weights_are_fed_where_they_can_be(monkeypatch: pytest.MonkeyPatch, *, fed: bool) -> None:
    opened: list[tuple[str, ...]] = []

    def noted(*given: Any, **how: Any) -> Session:
        opened.append(tuple(sorted(how["fed"])))
        return open_session(*given, **how)

    monkeypatch.setattr(stretches, "open_session", noted)
    if not fed:
        monkeypatch.setattr(stretches, "feedable", lambda _initializer: False)
    whole, found = outputs(QUANTISED, **INTEGERS)
    np.testing.assert_array_equal(found["y"], whole["y"])
    assert set(opened) == ({("point", "scale", "w"), ("v",)} if fed else {()})
    assert outputs(SEQUENCE)[1].keys() == {"y"}
    assert not {"one", "two"} & {name for each in opened for name in each}  # what shapes follow from stays


def test_a_small_network_is_not_large() -> None:
    assert not is_large(read_network(build(RESIDUAL, {name: WEIGHTS[name] for name in ("w", "v")})).model)
