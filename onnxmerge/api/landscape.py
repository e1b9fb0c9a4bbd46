"""``landscape``: losses on the plane through two parents and their merge, and on the line between the parents."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxmerge.api.compare import json_values
from onnxmerge.calibration.known_inputs import open_with
from onnxmerge.calibration.sources import CalibrationSource, SourceSpec, room_for_feeds
from onnxmerge.calibration.specs import input_specs
from onnxmerge.calibration.subset import Spread
from onnxmerge.errors import InputError, StructureError, UsageError
from onnxmerge.evaluation.labels import LabelSpec, read_labels
from onnxmerge.evaluation.task import Task
from onnxmerge.evaluation.truth import truth
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.merging.answer.meaning import asked_meanings
from onnxmerge.model.exposed import Exposed
from onnxmerge.model.paths import short_names
from onnxmerge.model.sample import SampleInput
from onnxmerge.pipeline.beginning import MergeInputs, PreparedMerge, prepare_merge, read_data
from onnxmerge.pipeline.job import Progress, silent
from onnxmerge.pipeline.landscape import OVERLAP, LossSurface, Plane, Wanted, corners_of, losses_of
from onnxmerge.pipeline.landscape_tasks import ByParents, LandscapeTasks, by_labels
from onnxmerge.pipeline.meanings import output_names, outputs_of
from onnxmerge.pipeline.options import UNNAMED, MergeOptions
from onnxmerge.pipeline.prepare import ModelSource, apart
from onnxmerge.pipeline.tasks import TaskSpec, require_own_folder, tasks_of
from onnxmerge.types import Floats
from onnxmerge.version import __version__

ALIGNING = tuple(name for name, method in MATCHERS.items() if not method.all_pairs)
"""The methods that bring the second parent to the first, whatever else there is."""

POINTS = 11
"""Points on each side of the plane, and on each line."""

SAMPLES = 256
"""Samples that all networks run on."""

BATCH = 16
"""Samples of a batch. Whole ones are taken, from all over the data: in data sorted by class, few see few classes."""


@dataclass(frozen=True, slots=True, eq=False)
class Landscape:
    """Losses on the plane through two models and their merge, the second in the units of the first.

    ``plane`` says where the merge lies, ``xs`` and ``ys`` are the coordinates of the grid (none where the three are on
    one line), ``ts`` those of the points between the parents. ``surfaces`` are the tasks, and behind them their overlap
    where there are several. ``to_merge``: the second was matched by weights to the merge, as this brings it nearer to
    it than ``method`` does by matching it to the first. ``labelled``: losses are of labels, and otherwise of what each
    parent answers.
    """

    models: tuple[str, str, str]
    method: str
    to_merge: bool
    labelled: bool
    samples: int
    networks: int
    plane: Plane
    xs: Floats
    ys: Floats
    ts: Floats
    surfaces: tuple[LossSurface, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON; numbers that are not finite as text."""
        told: dict[str, Any] = json_values({"version": __version__, **asdict(self)})
        for surface, own in zip(self.surfaces, told["surfaces"], strict=True):
            own["barriers"] = json_values(surface.barriers)
        return told

    def to_csv(self) -> str:
        """A row for each network: what it is (a model, on a line, on the plane), x, y, and its losses."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["network", "x", "y", *(surface.name for surface in self.surfaces)])
        for name, x, y, place in self._points():
            part, *index = place
            rows.writerow([name, x, y, *(float(getattr(surface, part)[tuple(index)]) for surface in self.surfaces)])
        return text.getvalue()

    def _points(self) -> Iterator[tuple[str, float, float, tuple[Any, ...]]]:
        for index, (name, at_x, at_y) in enumerate([("first", 0, 0), ("second", 1, 0), ("merged", *self.plane.merged)]):
            yield name, at_x, at_y, ("marks", index)
        for name in ("before", "after"):
            yield from ((name, t, 0, (name, index)) for index, t in enumerate(self.ts.tolist()))
        for row, y in enumerate(self.ys.tolist()):
            yield from (("plane", x, y, ("plane", row, column)) for column, x in enumerate(self.xs.tolist()))


def landscape(
    first: ModelSource,
    second: ModelSource,
    merged: ModelSource,
    data: SourceSpec,
    *,
    labels: LabelSpec | None = None,
    tasks: TaskSpec | None = None,
    vectors: str | Path | None = None,
    calibration: SourceSpec | None = None,
    points: int = POINTS,
    samples: int = SAMPLES,
    image_options: Mapping[str, Any] | None = None,
    inputs: Mapping[str, SampleInput] | None = None,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
    **settings: Any,
) -> Landscape:
    """The losses on the plane through two models and their merge, and the barrier on the line between the two.

    Units of the second are matched to the first, as `merge` does, or to the merge by weights, whichever brings the
    second nearer to the merge; the merge is in the first's units, or is brought there. Networks run one after the
    other, each with weights of its own in one session.

    Args:
        first: The first of the models that were merged.
        second: The second.
        merged: What became of them, by this tool or any other, of the same structure.
        data: What networks run on, see `merge`; streams past once.
        labels: Labels of all of the data, see `evaluate`. Without them a network loses where it does not answer as a
            parent does: a task for each parent and output.
        tasks: What labels mean, see `evaluate`.
        vectors: File of class vectors, see `evaluate`.
        calibration: What units are matched on; by default the data.
        points: On each side of the plane, and on the line; odd numbers have the middle among them.
        samples: Samples of the data to run on, from all over it.
        image_options: See `merge`.
        inputs: See `merge`.
        progress: Makes progress displays; silent by default.
        announce: Is told what it will cost before it begins.
        **settings: ``method`` (one of those that align, by default "mudsc-align"), ``outputs``, ``seed``,
            ``batch_size``, ``provider`` and ``operators``, as `merge` takes them.

    Raises:
        InputError: models or data cannot be used, the merge has another structure than the models, or a parent that
            networks are held to answers no finite number.
        UsageError: the arguments contradict each other.

    """
    how = MergeOptions(
        **{"method": UNNAMED, "heads": "joint", "batch_size": BATCH, "output_type": "float", **settings}
    ).settled()
    if how.method not in ALIGNING:
        raise UsageError(f"method {how.method} brings no model to another; choose one of {', '.join(ALIGNING)}")
    if points < 2 or samples < 1:
        raise UsageError(f"expected at least 2 points and 1 sample, found {points} and {samples}")
    if labels is None and (tasks is not None or vectors is not None):
        raise UsageError("tasks and class vectors say what labels mean: give the labels too (--labels)")
    if labels is not None:
        require_own_folder(labels, data)
    found, _ = tasks_of(tasks, vectors, Task("classes"))
    right = None if labels is None else truth(found, read_labels(labels))
    given = MergeInputs(data if calibration is None else calibration, None, image_options or {}, inputs or {})
    shown = progress or silent
    try:
        begun = prepare_merge([first, second, merged], given, how, shown, nullcontext)
    except StructureError as error:
        raise InputError(f"{error}; a merge with heads or widths of its own is on no plane with its parents") from error
    read_data(begun)
    job, models, source = begun.job, begun.job.prepared.models, begun.source
    if source is None or calibration is not None:
        source = _opened(begun, data, given)
    one, other, third = short_names([network.label for network in models.sources])
    exposed = Exposed(models.template, outputs_alone=True)
    feeds, outputs = Spread(source, samples), asked_meanings(how.outputs, output_names(models.template.graph))
    if right is None:
        both = replace(job.prepared, models=apart(models)[0])
        meanings = outputs_of(replace(job, prepared=both, source=source), {}).meanings
        told = [f"output {each.output!r}: {each.meaning} ({each.why})" for each in meanings.values()]
        parents = (one, models.weights[0]), (other, models.weights[1])
        asked: LandscapeTasks = ByParents(exposed, parents, meanings, how.provider)
    else:
        told = []
        asked = by_labels(models.template, found, right, feeds, outputs, how.provider)
    corners = corners_of(job)
    wanted = Wanted.on(corners.plane, points)
    networks, ran = len(wanted.shares), sum(feeds.sizes)
    if announce is not None:
        announce(f"{networks:,} networks x {ran:,} samples")
    losses = losses_of(exposed, [corners.at(each) for each in wanted.shares], asked, feeds, how.provider, shown)
    told += asked.notes(losses)
    surfaces = [wanted.surface(name, each.constant, each.means) for name, each in zip(asked.names, losses, strict=True)]
    if len(surfaces) > 1:
        worst: Floats = np.max([each.means / (each.constant or 1.0) for each in losses], axis=0)
        surfaces.append(wanted.surface(OVERLAP, 1.0, worst))
    return Landscape(
        models=(one, other, third),
        method=how.method,
        to_merge=corners.to_merge,
        labelled=labels is not None,
        samples=ran,
        networks=networks,
        plane=corners.plane,
        xs=wanted.xs,
        ys=wanted.ys,
        ts=wanted.ts,
        surfaces=tuple(surfaces),
        notes=tuple(dict.fromkeys((*begun.notes, *corners.notes, *told))),
    )


def _opened(begun: PreparedMerge, data: SourceSpec, given: MergeInputs) -> CalibrationSource:
    """The data as the models take it, where they were matched on other data."""
    specs = input_specs(begun.parents.models.template.model)
    options = {"batch_size": begun.job.options.batch_size, "room": room_for_feeds(), **given.image_options}
    opened, completed = open_with(data, specs, given.inputs, **options)
    return completed or opened
