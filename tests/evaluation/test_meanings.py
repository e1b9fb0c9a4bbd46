from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxmerge.errors import InputError, UsageError
from onnxmerge.evaluation.candidate import open_candidate
from onnxmerge.evaluation.heads import answer
from onnxmerge.evaluation.meanings import meanings_of, require_fitting, require_probabilities, told
from onnxmerge.evaluation.task import Task
from onnxmerge.merging.answer.meaning import Meaning, OutputMeaning
from onnxmerge.model.read import read_network
from tests.graphs import build

ROWS = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
VECTORS = np.eye(3, dtype=np.float32)
ENDS = {
    "plain": "y = Identity(x)",
    "Softmax": "y = Softmax(x)",
    "Sigmoid": "s = Sigmoid(x) y = Identity(s)",
    "LogSoftmax": "y = LogSoftmax(x)",
    "written out": "e = Exp(x) s = ReduceSum <axes = [1]> (e) y = Div(e, s)",
    "direction": "y = LpNormalization(x)",
}


@pytest.mark.parametrize(
    ("end", "task", "asked", "meaning", "why"),
    [
        ("plain", Task("t"), None, "logits", "its columns are scores of classes"),
        ("Softmax", Task("t"), None, "probabilities", "it ends in Softmax"),
        ("Sigmoid", Task("t"), None, "probabilities", "it ends in Sigmoid"),
        ("LogSoftmax", Task("t"), None, "logits", "it ends in LogSoftmax"),
        ("written out", Task("t"), None, "probabilities", "its values are positive and add up to 1"),
        ("direction", Task("t"), None, "logits", "its columns are scores of classes"),
        ("direction", Task("t", vectors=VECTORS), None, "embedding", "it is compared with class vectors"),
        ("Sigmoid", Task("t"), "logits", "logits", "as --outputs says"),
    ],
)
def test_what_an_output_is_to_a_classification(
    end: str, task: Task, asked: Meaning | None, meaning: str, why: str
) -> None:
    graph = build(f"(float[n,3] x) => (float[n,3] y) {{ {ENDS[end]} }}", {}, opset=11)
    candidate = open_candidate(read_network(graph), [task], provider="cpu")
    answers = candidate.answers({"x": ROWS}, [task])
    said: dict[str, Meaning] = {} if asked is None else {"y": asked}
    (found,) = meanings_of(candidate, answers, [task], said)
    assert found == OutputMeaning("y", meaning, why)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "asked", "says"),
    [
        (Task("t"), "embedding", "takes logits or probabilities, not embedding; an embedding needs class vectors"),
        (Task("t"), "features", "output 'y' answers task 't', which takes logits or probabilities, not features"),
        (Task("t", vectors=VECTORS), "logits", "takes embedding, not logits"),
        (Task("t", kind="regression"), "logits", "takes regression or features, not logits"),
        (Task("t", kind="regression"), "features", None),
        (Task("t", vectors=VECTORS), "embedding", None),
    ],
)
def test_what_outputs_are_said_to_be_must_fit_the_task(task: Task, asked: Meaning, says: str | None) -> None:
    if says is None:
        require_fitting({"y": asked}, [task], ["y"])
    else:
        with pytest.raises(UsageError, match=says):
            require_fitting({"y": asked}, [task], ["y"])


def test_probabilities_are_from_0_to_1() -> None:
    meaning = OutputMeaning("y", "probabilities", "as --outputs says")
    scores: Any = answer(Task("t"), np.array([[0.2, 0.8], [-3.0, 4]]), "y")
    require_probabilities([meaning], [scores[:1]], "m.onnx")
    with pytest.raises(InputError, match=r"m\.onnx, output 'y': has -3, expected probabilities from 0 to 1, as --outp"):
        require_probabilities([meaning], [scores], "m.onnx")


def test_models_are_named_where_they_differ() -> None:
    one = OutputMeaning("y", "logits", "its columns are scores of classes")
    other = OutputMeaning("y", "probabilities", "it ends in Softmax")
    assert told([("a", [one, one, None]), ("b", [one])]) == [
        "output 'y': logits, for its columns are scores of classes; ECE takes their softmax"
    ]
    assert told([("a", [one]), ("b", [other]), ("c", [one])]) == [
        "output 'y': logits, for its columns are scores of classes; ECE takes their softmax (a, c)",
        "output 'y': probabilities, for it ends in Softmax; ECE takes them as they are (b)",
    ]
