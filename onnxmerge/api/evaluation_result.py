"""What ``evaluate`` found, for people and machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from onnxmerge.api.notebook import shown_in_notebook, table
from onnxmerge.api.score_table import accuracies, regressions
from onnxmerge.evaluation.intervals import Interval
from onnxmerge.evaluation.scorer import Accuracy, Regression, Scores
from onnxmerge.evaluation.task import Task
from onnxmerge.merging.answer.meaning import OutputMeaning
from onnxmerge.version import __version__

T = TypeVar("T")

Role = Literal["parent", "ensemble", "answer", "average", "model"]
Baseline = Literal["average", "mean"]


@dataclass(frozen=True, slots=True)
class ModelScores:
    """The scores of one model, in the order of the tasks.

    ``role`` says what it is: a parent, the parents' ensemble, their ensemble as ``--answer ensemble`` forms it
    (``answer``), their plain average, or a model to be judged.
    ``learned`` are the indices of the tasks that a parent learned. ``scaled`` has the scaled score of each regression
    (see `metrics.scaled_score`), None for other tasks and where there is nothing to scale with. ``meanings`` say what
    the output of each classification was taken for; ensembles have none.
    """

    name: str
    role: Role
    learned: tuple[int, ...]
    scores: Scores
    scaled: tuple[float | None, ...]
    meanings: tuple[OutputMeaning | None, ...] = ()


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Scores of models side by side: parents first, then their ensembles and plain average, then the models.

    ``top_k`` are the k of top-k accuracies, ``baseline`` is what scaled scores start from (None: there are none).
    """

    tasks: tuple[Task, ...]
    samples: int
    top_k: tuple[int, ...]
    baseline: Baseline | None
    models: tuple[ModelScores, ...]
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> ModelScores:
        """The scores of the first model of that name; KeyError if there is none."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)

    def scaled_average(self, model: ModelScores) -> float | None:
        """The mean scaled score of a model over the regressions; None where one is missing or there is none."""
        values = [own for task, own in zip(self.tasks, model.scaled, strict=True) if task.kind == "regression"]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def _repr_html_(self) -> str:
        """The tables, for notebooks."""
        kinds = {task.kind for task in self.tasks}
        tables = [accuracies(self)] if "classification" in kinds else []
        tables += [regressions(self)] if "regression" in kinds else []
        shown = [table(each.heads, each.rows) for each in tables]
        return shown_in_notebook(f"{self.samples:,} samples, with 95% intervals", shown, self.notes)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data, for JSON: accuracies by k, errors by column, None for what is not finite.

        Intervals are lists of a lower and an upper end.
        """
        return {
            "version": __version__,
            "samples": self.samples,
            "tasks": [{"name": task.name, "kind": task.kind, "output": task.output} for task in self.tasks],
            "baseline": self.baseline,
            "models": [self._model(model) for model in self.models],
            "notes": list(self.notes),
        }

    def _model(self, model: ModelScores) -> dict[str, Any]:
        found = model.scores
        meanings = model.meanings or (None,) * len(self.tasks)
        scores = zip(self.tasks, found.tasks, model.scaled, meanings, strict=True)
        return {
            "name": model.name,
            "role": model.role,
            "learned": [self.tasks[index].name for index in model.learned],
            "tasks": {task.name: self._task(score, scaled, meaning) for task, score, scaled, meaning in scores},
            "average": self._by_k(found.average),
            "average_interval": self._by_k(_ends(found.average_intervals)),
            "average_calibration_error": _finite(found.average_calibration_error),
            "joint": None if found.joint is None else self._by_k(found.joint.top),
            "joint_interval": None if found.joint is None else self._by_k(_ends(found.joint.intervals)),
            "joint_calibration_error": None if found.joint is None else _finite(found.joint.calibration_error),
            "scaled_average": _finite(self.scaled_average(model)),
        }

    def _task(
        self, score: Accuracy | Regression | None, scaled: float | None, meaning: OutputMeaning | None
    ) -> dict[str, Any] | None:
        if score is None:
            return None
        if isinstance(score, Accuracy):
            return {
                "accuracy": self._by_k(score.top),
                "interval": self._by_k(_ends(score.intervals)),
                "calibration_error": _finite(score.calibration_error),
                "samples": score.samples,
                "output": None if meaning is None else {"meaning": meaning.meaning, "why": meaning.why},
            }
        return {
            "mean_absolute_error": [_finite(value) for value in score.absolute],
            "mean_absolute_error_interval": _ends(score.absolute_intervals),
            "mean_squared_error": [_finite(value) for value in score.squared],
            "mean_squared_error_interval": _ends(score.squared_intervals),
            "scaled": _finite(scaled),
            "samples": score.samples,
        }

    def _by_k(self, values: Sequence[T] | None) -> dict[str, T] | None:
        return None if values is None else {f"top{k}": value for k, value in zip(self.top_k, values, strict=True)}


def _ends(intervals: Sequence[Interval] | None) -> list[list[float | None]] | None:
    return None if intervals is None else [[_finite(low), _finite(high)] for low, high in intervals]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
