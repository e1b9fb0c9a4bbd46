"""A network under any weights, by one session: what it gives is what a session of these weights gives."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxmerge.errors import InputError
from onnxmerge.model import exposed as exposed_module
from onnxmerge.model import read_network
from onnxmerge.model.exposed import Exposed
from onnxmerge.model.session import Session, open_session
from onnxmerge.model.stretches import arrays
from tests.graphs import build, normal

BRANCH = """(float[n,4] x) => (float[n,4] y, float[n,4] x, float[4,4] v) {
    a = MatMul(x, w) s = ReduceSum<keepdims=0>(a) q = Greater(s, zero)
    b = If(q) <then_branch = t () => (float[n,4] p) { p = MatMul(a, v) },
               else_branch = f () => (float[n,4] r) { r = Add(a, x) }>
    y = MatMul(b, w) }"""
NARROW = "(float[n,4] x) => (float[n,4] y) { h = Cast<to=16>(x) a = MatMul(h, w) b = MatMul(a, v) y = Cast<to=1>(b) }"
QUANTISED = """(float[n,4] x) => (float[n,4] y) {
    d = DequantizeLinear(w, scale, point) a = MatMul(x, d) y = MatMul(a, v) }"""
GIVEN = "(float[n,4] x) => (float[n,4] x, float[4,4] w) { }"


def weights(seed: int, text: str) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {**normal(w=(4, 4), v=(4, 4), seed=seed), "zero": np.float32(seed)}
    if text == NARROW:
        found = {name: np.asarray(array).astype(ml_dtypes.bfloat16) for name, array in found.items()}
    if text == QUANTISED:
        found |= {"scale": np.float32(0.5), "w": rng.integers(-9, 9, (4, 4)).astype(np.int8), "point": np.int8(seed)}
    return {name: array for name, array in found.items() if name in text}


@pytest.mark.parametrize("text", [BRANCH, NARROW, QUANTISED, GIVEN])
@pytest.mark.parametrize("feedable", [True, False])
def test_any_tensor_under_any_weights(text: str, feedable: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    if not feedable:
        monkeypatch.setattr(exposed_module, "feedable", lambda _initializer: False)
    network = read_network(build(text, weights(0, text), check=False))
    opened: list[Any] = []

    def counted(*given: Any, **how: Any) -> Session:
        opened.append(how)
        return open_session(*given, **how)

    monkeypatch.setattr(exposed_module, "open_session", counted)
    exposed, feed = Exposed(network), {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}
    names = [*(name for name in ("a", "y") if name in exposed.computed), "x", "w"]
    versions = [{}, weights(1, text), weights(2, text)]
    for _ in range(2):
        ((number, found),) = exposed.runs(versions, [feed], names)
        assert number == 0
        for version, values in zip(versions, found, strict=True):
            whole = open_session(network.model, weights=version, outputs=names).run(feed)
            assert list(values) == names
            for name, array in arrays(values).items():
                np.testing.assert_array_equal(array, whole[name])
    assert len(opened) == (0 if not exposed.computed else 1 if feedable else 5)  # its own weights are opened once


def test_answers_are_the_outputs_that_are_tensors() -> None:
    text = (
        "(float[n,4] x) => (seq(float[n,2]) s, float[n,4] y) { y = MatMul(x, w) s = SplitToSequence<axis=1>(y, two) }"
    )
    exposed = Exposed(read_network(build(text, {**weights(0, "w"), "two": np.int64(2)}, check=False)))
    assert list(exposed.answers({}, {"x": np.ones((3, 4), np.float32)})) == ["y"]


def test_weights_are_no_inputs_that_anybody_may_give() -> None:
    exposed = Exposed(read_network(build(BRANCH, weights(0, BRANCH))))
    with pytest.raises(InputError, match=r"input 'x' is missing; it takes 'x'$"):
        exposed.answers({}, {})
    with pytest.raises(InputError, match=r"has no input 'w'; it takes 'x'$"):
        exposed.answers({}, {"x": np.ones((3, 4), np.float32), "w": np.ones((4, 4), np.float32)})
