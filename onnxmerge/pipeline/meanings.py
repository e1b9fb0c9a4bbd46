"""What the parents' outputs mean, settled once for all stages: refinement, the choice of repair, the last layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.calibration.subset import Spread
from onnxmerge.errors import InputError, UsageError
from onnxmerge.evaluation.task import Task
from onnxmerge.merging.answer.ensemble import Vectors
from onnxmerge.merging.answer.last_layer import LastLayer, last_layers
from onnxmerge.merging.answer.meaning import OutputMeaning, asked_meanings, known_meaning, meaning_of
from onnxmerge.merging.answer.outputs import NO_OUTPUTS, ClassVectors, Outputs
from onnxmerge.merging.reconstruction import Feature, answers_of, features_of, last_features
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.prepare import ModelSource
from onnxmerge.pipeline.resizing import resize
from onnxmerge.pipeline.separation import Parents
from onnxmerge.pipeline.tasks import TaskSpec, tasks_learned, tasks_of

LOOKED_AT = 256
"""Samples of which values are looked at where nothing else says what an output means."""

KEPT_BYTES = 1 << 26
"""Of the parents' answers on these samples, so many are kept for the comparison at the end."""


def outputs_of(job: Job, known: ClassVectors) -> Outputs:
    """Settle what a job's outputs mean; runs the parents on a few samples.

    Where heads are kept apart each output is its own parent's, and nothing is to be settled.

    Raises UsageError where class vectors do not fit an output.
    """
    if job.source is None or job.prepared.models.border:
        return NO_OUTPUTS
    models = job.prepared.models
    asked = asked_meanings(job.options.outputs, output_names(models.template.graph))
    layers, without = _layers(job)
    looked = _looked_at(models.template.graph, job, layers)
    settled = all(
        known_meaning(value, asked=asked.get(str(value.name)), vectors=str(value.name) in known) is not None
        for value in models.template.graph.outputs
        if str(value.name) in looked
    )
    feeds = list(Spread(job.source, 1 if settled else LOOKED_AT)) if looked else []  # then for their width alone
    answers = () if settled or not looked else last_features(models.template.graph, job.prepared.typing)
    features = {feature.tensor: feature for feature in (*looked.values(), *answers) if feature.answer}
    every = [
        features_of(models.template, own, list(features.values()), feeds, job.options.provider)[0]
        for own in (models.weights if feeds else ())
    ]
    found: dict[str, OutputMeaning] = {}
    for value in models.template.graph.outputs:
        name = str(value.name)
        if name not in looked or not every:
            continue
        given = [rows[looked[name].tensor] for rows in every]
        vectors = known.get(name)
        _require_fitting(vectors, given[0].shape[1], name)
        found[name] = meaning_of(value, given, asked=asked.get(name), vectors=vectors is not None)
    answered = answers_of(answers, feeds, every, job.options.provider) if answers else None
    kept = answered if answered is not None and answered.nbytes <= KEPT_BYTES else None
    return Outputs(found, tuple(layers), tuple(without), known, kept)


def at_its_widths(job: Job) -> Job:
    """The job with the graph at the widths of its options, and the layers of that graph that give its outputs."""
    wide = replace(job, resized=resize(job.prepared, job.options))
    if not job.outputs.layers:
        return wide
    layers, without = _layers(wide)
    return replace(wide, outputs=replace(job.outputs, layers=tuple(layers), without=tuple(without)))


def _layers(job: Job) -> tuple[list[LastLayer], list[str]]:
    """The layers that give outputs whose units stand in one order, and the names of the outputs that none gives."""
    layers, without = last_layers(job.network.graph, job.prepared.typing)
    return [layer for layer in layers if _in_one_order(job, layer) and _of_all(job, layer)], without


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
        each_one = [[task.vectors for task in mine if task.vectors is not None] for mine in own]
        if all(each_one):
            shared = len({tuple(id(array) for array in arrays) for arrays in each_one}) == 1
            stacked = [np.concatenate(arrays) for arrays in (each_one[:1] if shared else each_one)]
            known[output] = stacked * len(each_one) if shared else stacked
    return known


def output_names(graph: ir.Graph) -> list[str]:
    """The names of a graph's outputs, in their order."""
    return [str(value.name) for value in graph.outputs]


def _looked_at(graph: ir.Graph, job: Job, layers: Sequence[LastLayer]) -> dict[str, Feature]:
    """For each float output the tensor whose values say what it means: the last layer's own, or the output."""
    try:
        features = last_features(graph, job.prepared.typing)
    except InputError:
        return {}
    found = {feature.tensor: feature for feature in features if feature.answer}
    behind = {
        str(layer.output.name): Feature(layer.target.output, layer.axis, answer=True)
        for layer in layers
        if str(layer.output.name) in found
    }
    return found | behind


def _of_all(job: Job, layer: LastLayer) -> bool:
    """Whether a layer has no numbers of tokens that some models lack: these would not be to the scale of the others."""
    owned, own = job.prepared.models.owned, layer.target.layer
    return owned is None or not owned.partly.size or not {own.weight, own.bias} & owned.axes.keys()


def _in_one_order(job: Job, layer: LastLayer) -> bool:
    """Whether the units of a layer's output stand in one order in all parents, as those of an output do."""
    typing = job.prepared.typing
    layout = typing.activations[layer.target.output]
    names = {name for block in layout.blocks for axis in block.axes for name in axis.spaces}
    return not any(typing.spaces[name].free for name in names)


def _require_fitting(vectors: Vectors | None, width: int, output: str) -> None:
    for own in vectors or ():
        if own.shape[1] != width:
            raise UsageError(
                f"--vectors are {own.shape[1]} numbers wide, output {output!r} is {width}: give the vectors that this "
                "output is compared with, or leave them out"
            )


def known_vectors(
    tasks: TaskSpec | None,
    vectors: str | Path | None,
    models: Sequence[ModelSource],
    parents: Parents,
    how: MergeOptions,
    *,
    labelled: bool,
) -> ClassVectors:
    """The class vectors for the ensemble's answer. Raises UsageError for tasks or vectors that nothing would use."""
    if how.answer == "ensemble":
        asked_meanings(how.outputs, output_names(parents.models.template.graph))  # raises now what it would later
        known = class_vectors(tasks, vectors, models, parents)
        if known or labelled or tasks is None:
            return known
        raise UsageError("tasks without class vectors say what labels mean: give the labels too (--labels)")
    if not labelled and (tasks is not None or vectors is not None):
        raise UsageError(
            "tasks and class vectors say what labels mean: give the labels too (--labels), or --answer ensemble, "
            "which is read by class vectors"
        )
    return {}
