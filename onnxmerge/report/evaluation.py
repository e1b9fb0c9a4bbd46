"""Scores of models as tables: accuracies in percent, and errors of regressions."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rich.table import Table

from onnxmerge.api.evaluation_result import EvaluationResult, ModelScores
from onnxmerge.evaluation.scorer import Accuracy, Regression
from onnxmerge.report.terminal import terminal


def print_evaluation(result: EvaluationResult, title: str = "evaluation") -> None:
    """One table of accuracies and one of regressions, as there are tasks of the sort."""
    console, kinds = terminal(), {task.kind for task in result.tasks}
    if "classification" in kinds:
        console.print(_accuracies(result, title))
    if "regression" in kinds:
        console.print(_regressions(result, title))
    for note in result.notes:
        console.say(f"note  {note}")


def _accuracies(result: EvaluationResult, title: str) -> Table:
    table = Table(title=f"{title}: accuracy on {result.samples} samples, %", title_justify="left", box=None)
    table.add_column("model")
    tasks = [index for index, task in enumerate(result.tasks) if task.kind == "classification"]
    several = len(tasks) > 1
    for heading in (*(result.tasks[index].name for index in tasks), *(["average", "joint"] if several else [])):
        for k in result.top_k:
            table.add_column(heading if k == 1 else f"{heading} top-{k}", justify="right")
    for model in result.models:
        scores = model.scores
        given = [score.top if isinstance(score := scores.tasks[index], Accuracy) else None for index in tasks]
        if several:
            given += [scores.average, None if scores.joint is None else scores.joint.top]
        cells = [cell for values in given for cell in _percent(values, len(result.top_k))]
        table.add_row(_name(model, result), *cells)
    return table


def _percent(values: tuple[float, ...] | None, count: int) -> list[str]:
    return ["-"] * count if values is None else [f"{100 * value:.1f}" for value in values]


def _regressions(result: EvaluationResult, title: str) -> Table:
    table = Table(title=f"{title}: errors on {result.samples} samples", title_justify="left", box=None)
    table.add_column("model")
    table.add_column("task, column")
    for heading in ("mean absolute", "mean squared", "scaled score"):
        table.add_column(heading, justify="right")
    for model in result.models:
        name = _name(model, result)
        for row in _errors(model, result):
            table.add_row(name, *row)
            name = ""
    return table


def _errors(model: ModelScores, result: EvaluationResult) -> Iterator[tuple[str, str, str, str]]:
    for task, score, scaled in zip(result.tasks, model.scores.tasks, model.scaled, strict=True):
        if task.kind == "regression" and score is None:
            yield task.name, "-", "-", "-"
        if isinstance(score, Regression):
            pairs = list(zip(score.absolute, score.squared, strict=True))
            for column, (absolute, squared) in enumerate(pairs):
                where = task.name if len(pairs) == 1 else f"{task.name}, {column}"
                yield where, f"{absolute:.4g}", f"{squared:.4g}", _scaled(scaled) if column == 0 else ""
    if sum(task.kind == "regression" for task in result.tasks) > 1:
        yield "average", "", "", _scaled(result.scaled_average(model))


def _scaled(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _name(model: ModelScores, result: EvaluationResult) -> str:
    """A path without its folders where no other model has that name, and what a parent learned."""
    short = os.path.basename(model.name)  # noqa: PTH119  (not every name is a path)
    names = [os.path.basename(other.name) for other in result.models]  # noqa: PTH119
    name = short if names.count(short) == 1 else model.name
    learned = ", ".join(result.tasks[index].name for index in model.learned)
    return f"{name} (trained on {learned})" if learned and len(result.tasks) > 1 else name
