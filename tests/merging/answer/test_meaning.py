from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.merging.answer.meaning import asked_meanings, meaning_of
from onnxmerge.model.read import read_network
from tests.graphs import build, normal


def rows(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def classes(seed: int, columns: int = 10, samples: int = 400) -> list[NDArray[np.float32]]:
    """Logits of two networks that know the same classes: the right one stands out in both."""
    right = np.random.default_rng(seed).integers(0, columns, samples)
    peak = 8 * np.eye(columns, dtype=np.float32)[right]
    return [peak + rows(seed + 1, samples, columns), peak + rows(seed + 2, samples, columns)]


LINEAR = "h = Gemm(x, w)"
ENDS = {
    "softmax": ("y = Softmax(h)", "probabilities", "Softmax"),
    "softmax, reshaped": ("p = Softmax(h)  y = Flatten(p)", "probabilities", "Softmax"),
    "logarithm of softmax": ("y = LogSoftmax(h)", "logits", "LogSoftmax"),
    "sigmoid": ("y = Sigmoid(h)", "probabilities", "Sigmoid"),
    "normalised": ("y = LpNormalization(h)", "embedding", "LpNormalization"),
    "divided by its norm": ("n = ReduceL2<axes=[1]>(h)  y = Div(h, n)", "embedding", "length"),
    "divided by a root": (
        "s = Mul(h, h)  t = ReduceSum<keepdims=1>(s, axes)  n = Sqrt(t)  y = Div(h, n)",
        "embedding",
        "length",
    ),
}


@pytest.mark.parametrize(("end", "meaning", "why"), ENDS.values(), ids=ENDS)
def test_the_end_of_the_graph_decides_first(end: str, meaning: str, why: str) -> None:
    weights = {**normal(w=(4, 20)), "axes": np.array([1])} if "axes)" in end else dict(normal(w=(4, 20)))
    model = build(f"(float[n,4] x) => (float[n,20] y) {{ {LINEAR} {end} }}", weights, opset=13)
    found = meaning_of(read_network(model).graph.outputs[0], classes(0, 20))
    assert (found.meaning, found.guessed) == (meaning, False)
    assert why in found.why


def test_what_the_values_say_is_called_a_guess() -> None:
    model = build(f"(float[n,4] x) => (float[n,20] h) {{ {LINEAR} }}", normal(w=(4, 20)))
    output = read_network(model).graph.outputs[0]
    for answers, meaning in (
        (classes(0, 20), "logits"),
        ([rows(1, 400, 20), rows(2, 400, 20)], "embedding"),
        ([classes(0, 8)[0], classes(5, 8)[0]], "features"),  # they never mean the same column
    ):
        found = meaning_of(output, answers)
        assert (found.meaning, found.guessed) == (meaning, True)
    one = meaning_of(output, [rows(0, 50, 1), rows(1, 50, 1)])
    assert (one.meaning, one.guessed) == ("regression", False)


def test_what_the_user_says_goes_before_all() -> None:
    model = build(f"(float[n,4] x) => (float[n,20] y) {{ {LINEAR} y = Softmax(h) }}", normal(w=(4, 20)))
    output = read_network(model).graph.outputs[0]
    assert meaning_of(output, classes(0, 20), asked="features").meaning == "features"
    assert meaning_of(output, classes(0, 20), vectors=True).meaning == "embedding"


def test_meanings_are_written_for_all_outputs_or_by_name() -> None:
    assert asked_meanings(None, ["a", "b"]) == {}
    assert asked_meanings("logits", ["a", "b"]) == {"a": "logits", "b": "logits"}
    assert asked_meanings("a=logits, b=embedding", ["a", "b"]) == {"a": "logits", "b": "embedding"}
    with pytest.raises(UsageError, match="'scores' is none of logits"):
        asked_meanings("scores", ["a"])
    with pytest.raises(UsageError, match="no output 'c'"):
        asked_meanings("c=logits", ["a"])
