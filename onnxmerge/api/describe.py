"""``report``: what a file says of how it was made, what its units are, and with its parents how that came about."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxmerge.api.check import check
from onnxmerge.api.inspection import Inspection, inspect
from onnxmerge.api.landscape import ALIGNING, Landscape
from onnxmerge.api.landscape import landscape as landscape_of
from onnxmerge.api.outcome import MergeResult
from onnxmerge.api.reproduce import digest_of, merged_again
from onnxmerge.calibration.sources import SourceSpec
from onnxmerge.checking.provenance import RECIPE
from onnxmerge.checking.report import CheckReport
from onnxmerge.errors import InputError, OnnxmergeError, UsageError
from onnxmerge.evaluation.labels import LabelSpec
from onnxmerge.model.sample import SampleInput
from onnxmerge.pipeline.job import Progress
from onnxmerge.pipeline.prepare import ModelSource
from onnxmerge.pipeline.tasks import TaskSpec
from onnxmerge.text import said

KEPT = "onnxmerge."
"""What this program writes into ``metadata_props`` begins so."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelReport:
    """What is known of a model.

    ``metadata`` is what it says of how it was made, ``recipe`` the options among that. ``check`` is there where its
    parents were given, ``merge`` where merging these again gave the same file, ``landscape`` where it was asked for;
    ``notes`` say why they are not.
    """

    model: str
    inspection: Inspection
    metadata: Mapping[str, str]
    recipe: Mapping[str, Any]
    check: CheckReport | None = None
    merge: MergeResult | None = None
    landscape: Landscape | None = None
    notes: tuple[str, ...] = ()


def describe(
    model: ModelSource,
    *,
    parents: Sequence[ModelSource] = (),
    data: SourceSpec | None = None,
    labels: LabelSpec | None = None,
    tasks: TaskSpec | None = None,
    vectors: str | Path | None = None,
    inputs: Mapping[str, SampleInput] | None = None,
    operators: Path | None = None,
    image_options: Mapping[str, Any] | None = None,
    provider: str = "cpu",
    landscape: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> ModelReport:
    """Say what a file carries; with its parents hold it to them, and merge again to look at how it came about.

    Args:
        model: A path, or a model in memory.
        parents: What it was merged from, and the base where there was one, in any order.
        data: The calibration data that it was merged with.
        labels: Labels of that data, where it was merged with some.
        tasks: What these mean: see `evaluate`.
        vectors: File of class vectors: see `evaluate`.
        inputs: Shape or value of inputs: see `merge`.
        operators: A file of signatures for operators of your own.
        image_options: ``image_size``, ``mean``, ``std`` and ``layout`` for folders of images.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.
        landscape: Also look at the losses around it, on the plane through it and two parents: see `landscape`.
        progress: Makes progress displays; silent by default.
        announce: Is told what the landscape will cost before it begins.

    Raises:
        InputError: a model or the data cannot be read.
        UsageError: data without parents, which says nothing of a model alone, labels without data, or a landscape
            without data or of other than two parents.

    """
    if not parents and any(each is not None for each in (data, labels, tasks, vectors)):
        raise UsageError("data compares a model with its parents: name them (--parents A.onnx --parents B.onnx)")
    if labels is not None and data is None:
        raise UsageError("labels are of samples: give the data too (--calib)")
    if landscape and data is None:
        raise UsageError("losses are of samples: give the data too (--calib)")
    found = inspect(model, inputs=inputs, operators=operators, provider=provider)
    template = found.prepared.models.template
    metadata = {key: value for key, value in template.model.metadata_props.items() if key.startswith(KEPT)}
    report = ModelReport(found.model, found, metadata, _recipe(metadata))
    if not parents:
        return report
    given = {
        "calibration": data,
        "labels": labels,
        "tasks": tasks,
        "vectors": vectors,
        "inputs": inputs,
        "image_options": image_options,
    }
    base = report.recipe.get("base")
    against = [parent for parent in parents if base is None or digest_of(parent) != base]
    if landscape and len(against) != 2:
        raise UsageError(f"a plane goes through two parents and what was made of them, and {len(against)} are given")
    checked = check(
        model,
        against=against,
        data=data,
        inputs=inputs,
        operators=operators,
        image_options=image_options,
        provider=provider,
    )
    merge: MergeResult | None = None
    around: Landscape | None = None
    notes: tuple[str, ...] = ()
    try:
        merge = _same(template.sha256, metadata, parents, operators, given, progress)
    except OnnxmergeError as error:
        notes = (f"how the merge came about is not shown: {said(error)}",)
    if landscape and data is not None:
        look: dict[str, Any] = {"inputs": inputs, "operators": operators, "image_options": image_options}
        if (method := report.recipe.get("method")) in ALIGNING:
            look["method"] = method
        look |= {"provider": provider, "progress": progress, "announce": announce}
        if labels is not None:
            look |= {"labels": labels, "tasks": tasks, "vectors": vectors}
        try:
            around = landscape_of(against[0], against[1], model, data, **look)
        except OnnxmergeError as error:
            notes = (*notes, f"the landscape is not shown: {said(error)}")
    return replace(report, check=checked, merge=merge, landscape=around, notes=notes)


def _recipe(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """The recipe in a model's metadata; nothing where there is none that can be read."""
    try:
        found = json.loads(metadata.get(RECIPE, "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _same(
    digest: str,
    metadata: Mapping[str, str],
    parents: Sequence[ModelSource],
    operators: Path | None,
    given: Mapping[str, Any],
    progress: Progress | None,
) -> MergeResult:
    """The merge of the parents by the model's recipe. Raises InputError where it gives another file."""
    if RECIPE not in metadata:
        raise InputError("the model says nothing of how it was made; onnxmerge run --report shows it as it merges")
    result = merged_again(metadata[RECIPE], parents, operators, given, details=True, progress=progress)
    if digest_of(result) != digest:
        raise InputError("merging again by its recipe gives another file, so that merge would say nothing of this one")
    return result
