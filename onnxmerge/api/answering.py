"""The stage after repair: the last linear layers are solved for the ensemble's answer (see ``merging.answer``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.api.job import Job
from onnxmerge.api.prepare import ModelSource
from onnxmerge.api.restoring import Merged
from onnxmerge.api.separation import Parents
from onnxmerge.api.tasks import TaskSpec, tasks_learned, tasks_of
from onnxmerge.calibration.enough import LEAST
from onnxmerge.calibration.subset import Spread
from onnxmerge.errors import UsageError
from onnxmerge.evaluation.task import Task
from onnxmerge.merging.answer.answer import Answered, answer
from onnxmerge.merging.answer.ensemble import Vectors
from onnxmerge.merging.answer.last_layer import LastLayer, answers_of, last_layers
from onnxmerge.merging.answer.meaning import asked_meanings, meaning_of
from onnxmerge.merging.combine import Overlay

ClassVectors: TypeAlias = Mapping[str, Vectors]
"""For an output, the class vectors that each parent's answers are compared with, [classes, width]."""

ENOUGH = 5 * LEAST
"""Samples that the last layers are solved on, at most."""


def class_vectors(
    tasks: TaskSpec | None, vectors: str | Path | None, models: Sequence[ModelSource], parents: Parents
) -> ClassVectors:
    """The class vectors that tasks come with, or the file ``vectors`` gives; empty where there are none.

    Without tasks all parents know all classes of the file.

    Raises:
        InputError: a file cannot be read, or vectors do not fit the tasks or the output.
        UsageError: it is not clear which parent learned which task.

    """
    if tasks is None and vectors is None:
        return {}
    found, listed = tasks_of(tasks, vectors, Task("classes"))
    outputs = output_names(parents.models.template.graph)
    known: dict[str, list[NDArray[np.float32]]] = {}
    learned = tasks_learned(models, found, listed)
    for output in outputs:
        own = [
            [task for index, task in enumerate(found) if index in mine and (task.output or outputs[0]) == output]
            for mine in learned
        ]
        each = [[task.vectors for task in mine if task.vectors is not None] for mine in own]
        if all(each):
            shared = len({tuple(id(array) for array in arrays) for arrays in each}) == 1
            stacked = [np.concatenate(arrays) for arrays in (each[:1] if shared else each)]
            known[output] = stacked * len(each) if shared else stacked
    return known


def answered(job: Job, before: Merged, known: ClassVectors, *, apart: bool) -> tuple[Merged, tuple[Answered, ...]]:
    """The merged network with its outputs' layers solved for the ensemble's answer, and what became of each output.

    Nothing is done where heads are kept apart, for each is its own parent's; a note says so.
    """
    options = job.options
    if options.answer != "ensemble" or job.source is None:
        return before, ()
    if apart:
        return replace(before, notes=(*before.notes, "heads are apart: each answers as its own parent does")), ()
    template, typing = job.prepared.models.template, job.prepared.typing
    asked = asked_meanings(options.outputs, output_names(template.graph))
    layers, without = last_layers(job.network.graph, typing)
    layers = [layer for layer in layers if _in_one_order(job, layer)]
    notes = [
        f"output {name!r}: no linear layer gives it, so its answer is as the layers before left it" for name in without
    ]
    if not layers:
        return replace(before, notes=(*before.notes, *notes)), ()
    rows = answers_of(
        layers,
        job.network,
        before.weights,
        (template, job.prepared.models.weights),
        Spread(job.source, ENOUGH),
        provider=options.provider,
        seed=options.seed,
    )
    changed: dict[str, NDArray[Any]] = {}
    told: list[Answered] = []
    for layer, found in zip(layers, rows, strict=True):
        name = str(layer.output.name)
        vectors = known.get(name)
        _require_fitting(vectors, found.merged.shape[1], name)
        meaning = meaning_of(layer.output, found.parents, asked=asked.get(name), vectors=vectors is not None)
        weights, became = answer(
            layer,
            meaning,
            found,
            before.weights,
            shares=job.shares,
            vectors=vectors if meaning.meaning == "embedding" else None,
            mean=options.output_mean,
            seed=options.seed,
        )
        changed |= weights
        told.append(became)
    done = (*before.done, "ensemble's answer (output layers)") if changed else before.done
    return Merged(Overlay(before.weights, changed), done, (*before.notes, *notes)), tuple(told)


def output_names(graph: ir.Graph) -> list[str]:
    """The names of a graph's outputs, in their order."""
    return [str(value.name) for value in graph.outputs]


def _in_one_order(job: Job, layer: LastLayer) -> bool:
    """Whether the units of a layer's output stand in one order in all parents, as those of an output do."""
    typing = job.prepared.typing
    layout = typing.activations[layer.goal.output]
    names = {name for block in layout.blocks for axis in block.axes for name in axis.spaces}
    return not any(typing.spaces[name].free for name in names)


def _require_fitting(vectors: Vectors | None, width: int, output: str) -> None:
    for own in vectors or ():
        if own.shape[1] != width:
            raise UsageError(
                f"--vectors are {own.shape[1]} numbers wide, output {output!r} is {width}: give the vectors that this "
                "output is compared with, or leave them out"
            )
