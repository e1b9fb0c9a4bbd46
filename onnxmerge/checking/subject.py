"""What is checked, and beside what: read once, and run on data once, for all gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxmerge.calibration.chunks import Feed
from onnxmerge.calibration.chunks import rows as rows_of
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.specs import fixed_batch
from onnxmerge.checking.finding import Finding, Layer
from onnxmerge.checking.labelled import LabelledEvaluation, Score
from onnxmerge.checking.observed import Observed
from onnxmerge.checking.runs import Runner, first_rows, open_runner
from onnxmerge.checking.settings import Settings
from onnxmerge.errors import InputError
from onnxmerge.model.demand import demand
from onnxmerge.model.interface import resized_batch
from onnxmerge.model.network import Network
from onnxmerge.model.paths import short_names
from onnxmerge.model.read import data_files, read_network
from onnxmerge.model.sample import synthesize
from onnxmerge.pipeline.prepare import ModelSource, sample_from
from onnxmerge.types import Array

AGREEMENT = "agreement"
"""The family of gates that compare outputs with those of the parents."""

FEW = 3
"""Rows of a sample: enough to tell one from the others."""

Remake = Callable[[], str]
"""Merges again as the model's recipe says, and gives the digest of the file; raises what `merge` raises."""


@dataclass(eq=False)
class Subject:
    """A model under check. ``proto`` is the file as it stands (None for a model in memory), ``size`` its bytes.

    ``failed`` are ids of gates that failed so far, ``layers`` what is known of each initializer, ``by_rows`` are the
    outputs for so many rows of the sample.
    """

    source: ModelSource
    label: str
    path: Path | None
    proto: onnx.ModelProto
    settings: Settings
    parents: tuple[Network, ...] = ()
    data: CalibrationSource | None = None
    labelled: LabelledEvaluation | None = None
    remake: Remake | None = None
    failed: set[str] = field(default_factory=set)
    layers: dict[str, Layer] = field(default_factory=dict)
    by_rows: dict[int, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def network(self) -> Network:
        """The model as every command reads it. Raises InputError where that is refused."""
        return read_network(self.source)

    @cached_property
    def runner(self) -> Runner:
        """The model as it is served."""
        return open_runner(self.network, self.settings.provider)

    @cached_property
    def parent_names(self) -> tuple[str, ...]:
        """What findings call the parents: the same wherever all of it lies, as baselines and alerts go by it."""
        return short_names([parent.label for parent in self.parents])

    @cached_property
    def parent_runners(self) -> tuple[Runner, ...]:
        """The parents as they are served, in batches of the size that each takes."""
        opened = tuple(open_runner(parent, self.settings.provider) for parent in self.parents)
        return tuple(runner.in_its_batches(self.sample) for runner in opened)

    @cached_property
    def sample(self) -> dict[str, Array]:
        """Inputs on which the model runs, of a few rows: the first of the data, or synthetic ones.

        Raises InputError where it runs on none.
        """
        feed = None if self.data is None else next(iter(self.data), None)
        if feed is None:
            known = sample_from(self.network, self.settings.inputs)
            return dict(known) if known else self._synthetic()
        fitting = self.runner.fitting(feed)
        demand(self.network).require_room(fitting)
        if not self.runner.batched:
            return fitting
        fixed = fixed_batch(self.runner.specs)
        if fixed is not None:
            return resized_batch(fitting, fixed)
        for rows in (FEW, 1):
            few = first_rows(fitting, rows)
            try:
                self.by_rows[rows_of(few)] = self.runner.once(few)
            except InputError:
                if rows == 1:
                    raise
            else:
                return few
        return fitting

    def _synthetic(self) -> dict[str, Array]:
        try:
            return synthesize(self.network, batch=FEW)
        except InputError:  # a batch may be fixed inside: the sizes that `inspect` tries say what else is wrong
            return synthesize(self.network)

    @cached_property
    def answers(self) -> dict[str, Any]:
        """The outputs for the sample."""
        known = self.by_rows.get(rows_of(self.sample))  # looking for a sample may have run it
        return self.runner.once(self.sample) if known is None else known

    def answers_of(self, rows: int) -> dict[str, Any]:
        """The outputs for so many rows of the sample, which are run once. Raises InputError where they do not run."""
        if rows == rows_of(self.sample):
            return self.answers
        if rows not in self.by_rows:
            self.by_rows[rows] = self.runner.once(resized_batch(self.sample, rows))
        return self.by_rows[rows]

    def feeds(self) -> Iterator[dict[str, Array]]:
        """The data as the model takes it; the synthetic sample where there is none."""
        if self.data is None:
            yield self.sample
            return
        for feed in self.data:
            yield self.runner.fitting(feed)

    @cached_property
    def observed(self) -> Observed:
        """What the model and its parents give in one pass over the data; on the sample where there is none.

        Parents run only where a gate compares with them.
        """
        compared = self.labelled is not None or self.settings.selects(AGREEMENT)
        parents = self.parent_runners if compared else ()
        seen, runners = Observed(), (self.runner, *parents)
        for feed in self.feeds():
            known = self.answers if _equal(feed, self.sample) else None
            outputs = seen.take(self.runner, feed, parents, known, all_run=self.labelled is not None)
            if self.labelled is not None:
                self.labelled.take(runners, outputs, rows_of(feed) if self.runner.batched else None)
        return seen

    @cached_property
    def scores(self) -> Sequence[Score]:
        """Accuracies of the model, its parents and their ensemble; none where there are no labels.

        Raises InputError where the data and the labels do not fit the models or one another.
        """
        if self.labelled is None:
            return ()
        self.observed  # noqa: B018 - the pass that scores, where no gate asked for it yet
        return self.labelled.scores()

    @property
    def bytes(self) -> int:
        """Of the file and its data files."""
        external = 0 if self.path is None else sum(each.stat().st_size for each in data_files(self.path))
        own: int = self.proto.ByteSize()
        return own + external

    @property
    def parent_bytes(self) -> int | None:
        """The same of the first parent; None where there is none, or it is no file."""
        path = self.parents[0].path if self.parents else None
        return None if path is None else sum(each.stat().st_size for each in (path, *data_files(path)))

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself."""
        return {entry.key: entry.value for entry in self.proto.metadata_props}

    def skip(self, gate: str, why: str, **about: Any) -> Finding:
        """A gate that has nothing to say of this model."""
        return Finding(gate, "error", about.get("where", ""), None, None, "skipped", why)


def _equal(one: Feed, other: Feed) -> bool:
    return all(np.array_equal(array, other[name], equal_nan=array.dtype.kind == "f") for name, array in one.items())


def could_not(gate: str, why: str) -> Finding:
    """A gate that could not be evaluated, which is a failure."""
    return Finding(gate, "error", "", "could not be evaluated", None, "fail", why)
