"""Models whose structures part: what is said where too little is alike for heads to be kept apart unasked."""

from __future__ import annotations

import pytest

import onnxmerge
from onnxmerge import StructureError
from tests.graphs import build, normal

TRUNK = "(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) "
LONG = TRUNK + "g = MatMul(r, w2) s = Relu(g) k = MatMul(s, w3) t = Relu(k) y = MatMul(t, w4) }"
OTHER = TRUNK + "g = MatMul(r, w2) s = Tanh(g) y = MatMul(s, w3) }"


def test_it_says_that_heads_can_be_kept_apart() -> None:
    one = build(LONG, normal(w1=(6, 8), w2=(8, 7), w3=(7, 7), w4=(7, 3)))
    other = build(OTHER, normal(w1=(6, 8), w2=(8, 5), w3=(5, 3), seed=1))
    with pytest.raises(StructureError, match=r"they begin alike \(25% of the layers\): --heads separate"):
        onnxmerge.plan([one, other], method="average")
    assert onnxmerge.plan([one, other], method="average", heads="separate").border is not None


def test_models_that_share_nothing_are_told_nothing_of_heads() -> None:
    one = build(LONG, normal(w1=(6, 8), w2=(8, 7), w3=(7, 7), w4=(7, 3)))
    other = build(OTHER.replace("Relu", "Sigmoid", 1), normal(w1=(6, 9), w2=(9, 5), w3=(5, 3), seed=1))
    with pytest.raises(StructureError) as error:
        onnxmerge.plan([one, other], method="average")
    assert "--heads" not in str(error.value)
