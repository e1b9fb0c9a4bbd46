"""Who takes part in an evaluation: parents and what they learned, their plain average, and the models."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxmerge.api.evaluation_result import Role
from onnxmerge.api.merge import merge
from onnxmerge.api.outcome import MergeResult
from onnxmerge.errors import StructureError
from onnxmerge.evaluation.candidate import Candidate, open_candidate
from onnxmerge.evaluation.task import Task
from onnxmerge.model.read import read_network
from onnxmerge.pipeline.prepare import ModelSource

Evaluable = ModelSource | MergeResult
"""A model to evaluate: a path, a model in memory, or a merge that is not written yet."""


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """A model that takes part. ``learned`` are the indices of the tasks that a parent learned."""

    name: str
    role: Role
    learned: tuple[int, ...]
    candidate: Candidate


def named(models: Evaluable | Sequence[Evaluable] | Mapping[str, Evaluable]) -> list[tuple[str, Evaluable]]:
    """Models with their names: those of the mapping, paths, or what the models call themselves."""
    if isinstance(models, Mapping):
        return list(models.items())
    if isinstance(models, Sequence) and not isinstance(models, str):
        return [(_name(model), model) for model in models]
    return [(_name(models), models)]


def _name(model: Evaluable) -> str:
    if isinstance(model, MergeResult):
        return f"merged ({model.report.method})"
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    return f"model {model.graph.name or 'without a name'!r}"


def evaluated_model(
    name: str, model: Evaluable, tasks: Sequence[Task], role: Role, learned: Sequence[int], provider: str
) -> EvaluatedModel:
    """Read a model and open it for ``tasks``; InputError where that fails."""
    if isinstance(model, MergeResult):
        found = open_candidate(model.template, tasks, weights=model.weights, learned=learned, provider=provider)
    else:
        found = open_candidate(read_network(model), tasks, learned=learned, provider=provider)
    return EvaluatedModel(name, role, tuple(learned), found)


def plain_average(
    parents: Sequence[ModelSource], tasks: Sequence[Task], provider: str
) -> tuple[EvaluatedModel | None, str | None]:
    """The mean of the parents' weights, or a note that says why there is none."""
    if len(parents) < 2:
        return None, "there is no plain average of fewer than two parents, so no scaled score"
    try:
        found = merge(parents, method="average", provider=provider)
    except StructureError as error:
        return None, f"there is no plain average of the parents, so no scaled score: {error}"
    return evaluated_model("plain average", found, tasks, "average", (), provider), None
