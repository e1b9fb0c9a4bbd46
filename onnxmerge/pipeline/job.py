"""What the stages of one merge share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from onnxmerge.calibration.progress import Report
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.subset import gathered, own_parts
from onnxmerge.executor import HERE, Executor
from onnxmerge.merging.answer.outputs import NO_OUTPUTS, Outputs
from onnxmerge.merging.combine import shares_among, shares_of
from onnxmerge.model.network import Network
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.prepare import Base, Prepared
from onnxmerge.pipeline.store import NO_STORE, Store
from onnxmerge.units.resize import Widths

Progress = Callable[[str], AbstractContextManager[Report]]
"""Makes a progress display for one titled piece of work."""

Stages = Callable[[str], AbstractContextManager[object]]
"""Is entered for each stage of a merge, by name, while that lasts."""


@dataclass(frozen=True, slots=True, eq=False)
class Resized:
    """The parents' graph with groups of other ``widths``, and a note on those that keep theirs.

    ``apart``: every group is as wide as all parents together.
    """

    network: Network
    widths: Widths
    notes: tuple[str, ...]
    apart: bool


@dataclass(frozen=True, slots=True)
class Job:
    """Typed models, the data to calibrate on (None: none was given), and how to merge.

    ``own`` is data of each model's own, for what measures each model on its own task; empty where none was given.
    ``base`` is the model that all others were fine-tuned from, where it was given; ``resized`` what merging makes of
    the parents' graph, where groups of it get another width; ``outputs`` what the parents' outputs mean; ``store`` has
    what stages found before, and ``executor`` runs what does not depend on each other. ``ingredients`` are the places
    of the models that are averaged, in order (None: all are).
    """

    prepared: Prepared
    source: CalibrationSource | None
    options: MergeOptions
    progress: Progress
    own: tuple[CalibrationSource, ...] = ()
    base: Base | None = None
    resized: Resized | None = None
    outputs: Outputs = NO_OUTPUTS
    store: Store = NO_STORE
    executor: Executor = HERE
    ingredients: tuple[int, ...] | None = None

    def __reduce__(self) -> tuple[type[Job], tuple[object, ...]]:
        """What another process gets of it: it keeps no results, shows no progress, and sends nothing on."""
        own = () if self.source is None else tuple(gathered(each) for each in self.own)
        found = self.prepared, self.source, self.options, silent, own, self.base, self.resized, self.outputs
        return Job, (*found, NO_STORE, HERE, self.ingredients)

    def on(self, source: CalibrationSource | None) -> Job:
        """The job on some of its data: of each model's own data the same part, where it was put together of that."""
        return replace(self, source=source, own=own_parts(source) or self.own)

    @property
    def network(self) -> Network:
        """The graph that merged weights belong to."""
        return self.prepared.models.template if self.resized is None else self.resized.network

    @property
    def apart(self) -> bool:
        """Whether the merged network has all units of all parents side by side: no two are to be merged."""
        return self.resized is not None and self.resized.apart

    @property
    def shares(self) -> list[float]:
        """Each model's share in the merged one: equal ones as long as they are to be found, none for one left out."""
        every = shares_of(self.options.given_weights, len(self.prepared.models.weights))
        return every if self.ingredients is None else shares_among(self.ingredients, every)

    @property
    def averaged(self) -> Job:
        """The job of those models alone that are averaged."""
        if self.ingredients is None:
            return self
        prepared, options = self.prepared, self.options
        if options.given_weights is not None:
            options = replace(options, weights=tuple(options.given_weights[place] for place in self.ingredients))
        return replace(
            self,
            prepared=replace(prepared, models=prepared.models.only(self.ingredients)),
            options=options,
            own=tuple(self.own[place] for place in self.ingredients if self.own),
            ingredients=None,
        )


@contextmanager
def silent(_title: str) -> Iterator[Report]:
    """A progress display that shows nothing."""
    yield lambda _done, _total: None
