"""What counts as normalising."""

from __future__ import annotations

import pytest
from numpy.typing import ArrayLike

from onnxmerge.model.normalisation import normalises
from onnxmerge.model.read import read_network
from tests.graphs import build, normal

NORMS = {
    "LayerNormalization": "y = LayerNormalization(h, s, b)",
    "spelled out": """m = ReduceMean<keepdims=1>(h, last)  c = Sub(h, m)  q = Mul(c, c)
        v = ReduceMean<keepdims=1>(q, last)
        e = Add(v, eps)  r = Sqrt(e)  y = Div(c, r)""",
    "RMS spelled out": """q = Mul(h, h)  v = ReduceMean<keepdims=1>(q, last)  e = Add(v, eps)  r = Sqrt(e)
        i = Reciprocal(r)  y = Mul(h, i)""",
    "RMS with Pow": """q = Mul(h, h)  v = ReduceMean<keepdims=1>(q, last)  e = Add(v, eps)  r = Pow(e, minus)
        y = Mul(h, r)""",
}
OTHERS = {
    "none": "y = Relu(h)",
    "squeeze and excitation": """m = ReduceMean<keepdims=1>(h, last)  g = Sigmoid(m)  y = Mul(h, g)""",
    "attention scale": "r = Sqrt(eps)  y = Div(h, r)",
    "normalised output": "n = ReduceL2<keepdims=1>(h, last)  y = Div(h, n)",
}


def normalising(nodes: str, before: str = "h = MatMul(x, w)") -> bool:
    weights: dict[str, ArrayLike] = {"last": [-1], "eps": [1e-5], "minus": [-0.5], **normal(w=(6, 6), s=(6,), b=(6,))}
    return normalises(read_network(build(f"(float[n,6] x) => (float[n,6] y) {{ {before} {nodes} }}", weights)).graph)


@pytest.mark.parametrize("nodes", NORMS.values(), ids=NORMS)
def test_norms(nodes: str) -> None:
    assert normalising(nodes)


@pytest.mark.parametrize("nodes", OTHERS.values(), ids=OTHERS)
def test_others(nodes: str) -> None:
    assert not normalising(nodes)


def test_a_standardised_input_does_not_count() -> None:
    assert not normalising("y = MatMul(c, w)", "m = ReduceMean<keepdims=1>(x, last)  c = Sub(x, m)")
