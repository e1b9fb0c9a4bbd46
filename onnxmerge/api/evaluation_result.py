"""What ``evaluate`` found, for people and machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onnxmerge.evaluation.metrics import scaled_score
from onnxmerge.evaluation.scorer import Accuracy, Regression, Scores
from onnxmerge.evaluation.task import Task
from onnxmerge.version import __version__

Role = Literal["parent", "ensemble", "average", "model"]
Baseline = Literal["average", "mean"]


@dataclass(frozen=True, slots=True)
class ModelScores:
    """The scores of one model, in the order of the tasks.

    ``role`` says what it is: a parent, the parents' ensemble, their plain average, or a model to be judged.
    ``learned`` are the indices of the tasks that a parent learned. ``scaled`` has the scaled score of each regression
    (see `metrics.scaled_score`), None for other tasks and where there is nothing to scale with.
    """

    name: str
    role: Role
    learned: tuple[int, ...]
    scores: Scores
    scaled: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Scores of models side by side: parents first, then their ensemble and plain average, then the models.

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

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON: accuracies by k, errors by column, None for what is not finite."""
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
        return {
            "name": model.name,
            "role": model.role,
            "learned": [self.tasks[index].name for index in model.learned],
            "tasks": {
                task.name: self._task(score, scaled)
                for task, score, scaled in zip(self.tasks, found.tasks, model.scaled, strict=True)
            },
            "average": self._by_k(found.average),
            "joint": None if found.joint is None else self._by_k(found.joint.top),
            "scaled_average": _finite(self.scaled_average(model)),
        }

    def _task(self, score: Accuracy | Regression | None, scaled: float | None) -> dict[str, Any] | None:
        if score is None:
            return None
        if isinstance(score, Accuracy):
            return {"accuracy": self._by_k(score.top), "samples": score.samples}
        return {
            "mean_absolute_error": [_finite(value) for value in score.absolute],
            "mean_squared_error": [_finite(value) for value in score.squared],
            "scaled": _finite(scaled),
            "samples": score.samples,
        }

    def _by_k(self, values: tuple[float, ...] | None) -> dict[str, float] | None:
        return None if values is None else {f"top{k}": value for k, value in zip(self.top_k, values, strict=True)}


def scaled_scores(
    tasks: Sequence[Task], scores: Scores, baseline: Scores | None, parents: Sequence[tuple[Sequence[int], Scores]]
) -> tuple[float | None, ...]:
    """The scaled score of each regression, against ``baseline`` and the mean loss of the parents that learned it.

    ``parents`` are pairs: the indices of the tasks that one learned, and its scores.
    """
    if baseline is None:
        return tuple(None for _ in tasks)
    return tuple(
        _scaled(task, own, lowest, [theirs.tasks[index] for learned, theirs in parents if index in learned])
        for index, (task, own, lowest) in enumerate(zip(tasks, scores.tasks, baseline.tasks, strict=True))
    )


def _scaled(
    task: Task,
    own: Accuracy | Regression | None,
    lowest: Accuracy | Regression | None,
    parents: Sequence[Accuracy | Regression | None],
) -> float | None:
    losses = [parent.loss(task.loss) for parent in parents if isinstance(parent, Regression)]
    if not (isinstance(own, Regression) and isinstance(lowest, Regression) and losses):
        return None
    return scaled_score(own.loss(task.loss), baseline=lowest.loss(task.loss), parent=sum(losses) / len(losses))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
