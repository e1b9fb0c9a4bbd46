"""The table of accuracies in terminals of any width."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge import EvaluationResult
from onnxmerge.api.evaluation_result import ModelScores
from onnxmerge.evaluation.labels import read_labels
from onnxmerge.evaluation.scorer import Scorer, Sureness
from onnxmerge.evaluation.task import Task
from onnxmerge.evaluation.truth import truth
from onnxmerge.report import evaluation
from onnxmerge.report.terminal import Terminal

TASKS = (Task("0-4", row_of={0: 0, 1: 1}), Task("5-9", row_of={2: 0, 3: 1}))


def result() -> EvaluationResult:
    scorer = Scorer(TASKS, truth(TASKS, read_labels(np.arange(4))))
    answers = [np.array([[2.0, 0], [1, 0], [0, 0], [0, 0]]), np.array([[0.0, 1], [0, 0], [3, 0], [0, 4]])]
    scorer.update(answers, Sureness(answers))
    scores = scorer.scores()
    models = (ModelScores("b.onnx", "parent", (1,), scores, (None, None)),)
    return EvaluationResult(TASKS, 4, (1,), None, models, ())


@pytest.mark.parametrize(
    ("width", "row", "notes"),
    [
        (100, "b.onnx (trained on 5-9)  50.0 ±40.5  100.0 ±65.8  75.0 ±38.6  75.0 ±44.9       26.2", 0),
        (60, "b.onnx (trained on  50.0  100.0     75.0   75.0       26.2", 1),
    ],
)
def test_intervals_stand_where_they_fit(
    width: int, row: str, notes: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "terminal", lambda: Terminal(width=width, highlight=False))
    evaluation.print_evaluation(result())
    out = capsys.readouterr().out
    assert row in [line.strip() for line in out.splitlines()], out
    assert out.count("too narrow for 95% intervals") == notes


def test_a_heading_is_one_line_and_what_is_no_number_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    scorer = Scorer([Task("t")], truth([Task("t")], read_labels(np.array([0, 1]))))
    scorer.update([nothing := np.full((2, 2), np.nan)], Sureness([nothing]))
    model = ModelScores("m.onnx", "model", (), scorer.scores(), (None,))
    evaluation.print_evaluation(EvaluationResult((Task("t"),), 2, (1,), None, (model,), ()))
    heading, _, row = capsys.readouterr().out.splitlines()
    assert heading == "evaluation: accuracy on 2 samples, % (± 95% interval)"
    assert row.split() == ["m.onnx", "0.0", "±65.8", "-"]
