"""Scores of models as text, in rows and columns: accuracies in percent, and errors of regressions.

After a ± stands how far the farther end of the 95% interval is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from onnxmerge.evaluation.intervals import Interval
from onnxmerge.evaluation.scorer import Accuracy, Regression

if TYPE_CHECKING:
    from onnxmerge.api.evaluation_result import EvaluationResult, ModelScores

Rates: TypeAlias = tuple[tuple[float, ...] | None, tuple[Interval, ...] | None]


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Scores as text: a heading for each column, and a row for each model."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def accuracies(result: EvaluationResult, *, intervals: bool = True) -> ScoreTable:
    """Accuracies of all models in percent, for each task, on average and over all classes, and calibration errors."""
    tasks = [index for index, task in enumerate(result.tasks) if task.kind == "classification"]
    several = len(tasks) > 1
    columns = [*(result.tasks[index].name for index in tasks), *(["average", "joint"] if several else [])]
    heads = [name if k == 1 else f"{name} top-{k}" for name in columns for k in result.top_k]
    joint = any(model.scores.joint is not None for model in result.models)
    heads.append("ECE" if not several else "joint ECE" if joint else "average ECE")
    rows = []
    for model in result.models:
        scores = model.scores
        given = [_rates(scores.tasks[index]) for index in tasks]
        if several:
            given += [(scores.average, scores.average_intervals), _rates(scores.joint)]
        cells = [cell for each in given for cell in _percent(*each, len(result.top_k), intervals=intervals)]
        error = _error(scores.joint) if joint else scores.average_calibration_error
        cells.append("-" if error is None or math.isnan(error) else f"{100 * error:.1f}")
        rows.append((_name(model, result), *cells))
    return ScoreTable(("model", *heads), tuple(rows))


def _rates(score: Accuracy | Regression | None) -> Rates:
    return (score.top, score.intervals) if isinstance(score, Accuracy) else (None, None)


def _error(score: Accuracy | None) -> float | None:
    return None if score is None else score.calibration_error


def _percent(
    values: tuple[float, ...] | None, ends: tuple[Interval, ...] | None, count: int, *, intervals: bool
) -> list[str]:
    if values is None or ends is None:
        return ["-"] * count
    reached = [f" ±{100 * _reach(*pair):.1f}" if intervals else "" for pair in zip(values, ends, strict=True)]
    return [f"{100 * value:.1f}{reach}" for value, reach in zip(values, reached, strict=True)]


def _reach(value: float, ends: Interval) -> float:
    """How far from a value the farther end of its interval is."""
    return max(value - ends[0], ends[1] - value)


def regressions(result: EvaluationResult) -> ScoreTable:
    """Errors of all models, for each column of each regression, and scaled scores."""
    rows = []
    for model in result.models:
        name = _name(model, result)
        for row in _errors(model, result):
            rows.append((name, *row))
            name = ""
    return ScoreTable(("model", "task, column", "mean absolute", "mean squared", "scaled score"), tuple(rows))


def _errors(model: ModelScores, result: EvaluationResult) -> Iterator[tuple[str, str, str, str]]:
    for task, score, scaled in zip(result.tasks, model.scores.tasks, model.scaled, strict=True):
        if task.kind == "regression" and score is None:
            yield task.name, "-", "-", "-"
        if isinstance(score, Regression):
            absolute = list(zip(score.absolute, score.absolute_intervals, strict=True))
            squared = list(zip(score.squared, score.squared_intervals, strict=True))
            for column, losses in enumerate(zip(absolute, squared, strict=True)):
                where = task.name if len(absolute) == 1 else f"{task.name}, {column}"
                first, second = (_loss(*each) for each in losses)
                yield where, first, second, _scaled(scaled) if column == 0 else ""
    if sum(task.kind == "regression" for task in result.tasks) > 1:
        yield "average", "", "", _scaled(result.scaled_average(model))


def _loss(value: float, ends: Interval) -> str:
    reach = ends[1] - value  # the lower end may be cut off at 0
    return f"{value:.4g} ±{reach:.2g}" if math.isfinite(reach) else f"{value:.4g}"


def _scaled(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _name(model: ModelScores, result: EvaluationResult) -> str:
    """A path without its folders where no other model has that name, and what a parent learned."""
    short = os.path.basename(model.name)  # noqa: PTH119  (not every name is a path)
    names = [os.path.basename(other.name) for other in result.models]  # noqa: PTH119
    name = short if names.count(short) == 1 else model.name
    learned = ", ".join(result.tasks[index].name for index in model.learned)
    return f"{name} (trained on {learned})" if learned and len(result.tasks) > 1 else name
