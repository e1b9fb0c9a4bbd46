"""Explanations: the chain of operators behind each axis."""

from __future__ import annotations

import pytest

from onnxmerge import UsageError, inspect
from tests.graphs import build, normal

GRAPH = """(float[n,6] x) => (float[n,3] y) {
    [first] h = MatMul(x, w1)
    [act] r = Relu(h)
    [second] y = MatMul(r, w2)
}"""


def test_a_free_axis_names_what_joined_it() -> None:
    found = inspect(build(GRAPH, normal(w1=(6, 5), w2=(5, 3)))).explain("w1")
    assert found[1].layout == "p0:5"
    (reason,) = found[1].spaces
    assert reason.space.free
    assert "MatMul 'second'" in reason.chain


def test_a_fixed_axis_names_the_chain_to_what_fixed_it() -> None:
    found = inspect(build(GRAPH, normal(w1=(6, 5), w2=(5, 3)))).explain("w1")
    (reason,) = found[0].spaces
    assert not reason.space.free
    assert reason.chain == ("MatMul 'first'", "input 'x': the model's interface")


def test_an_unknown_tensor_is_a_usage_error_with_similar_names() -> None:
    with pytest.raises(UsageError, match=r"similar: w1"):
        inspect(build(GRAPH, normal(w1=(6, 5), w2=(5, 3)))).explain("W")


def test_activations_can_be_explained_too() -> None:
    found = inspect(build(GRAPH, normal(w1=(6, 5), w2=(5, 3)))).explain("r")
    assert found[1].layout == "p0:5"
