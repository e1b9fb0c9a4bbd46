"""Run a network segment by segment over the same batches, so that each segment of it runs once.

A *frontier* is what the rest of the network reads of the part that has already run. It is kept for each batch, within
a budget of bytes that several networks may share; a batch for which there is no room starts from the inputs again,
until its frontier is small enough to be kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.session import Session, open_session
from onnxmerge.model.signature import operands
from onnxmerge.types import Arrays


@dataclass(slots=True)
class MemoryBudget:
    """Bytes that may be kept, and those that are."""

    limit: int
    held: int = 0

    def takes(self, size: int) -> bool:
        """Reserve ``size`` bytes if they are there."""
        if self.held + size > self.limit:
            return False
        self.held += size
        return True


@dataclass(slots=True)
class Relay:
    """One network on its way through its segments.

    ``dtypes`` are those of the tensors that may stand in a frontier. ``weights`` are read anew for each segment, so
    they may change from one to the next.
    """

    model: ir.Model
    weights: Arrays
    dtypes: Mapping[str, np.dtype[Any]]
    budget: MemoryBudget
    provider: str = "cpu"
    _held: dict[int, dict[str, NDArray[Any]]] = field(default_factory=dict)
    _names: tuple[str, ...] = ()

    def missing(self, batches: int) -> bool:
        """Whether any of so many batches must start from the inputs."""
        return len(self._held) < batches

    def taken(self, index: int) -> dict[str, NDArray[Any]] | None:
        """The frontier that was kept for a batch, which is kept no longer; None where there was no room."""
        held = self._held.pop(index, None)
        self.budget.held -= _size(held or {})
        return held

    def keep(self, index: int, frontier: dict[str, NDArray[Any]]) -> None:
        """Keep the frontier of a batch, if there is room."""
        if frontier and self.budget.takes(_size(frontier)):
            self._held[index] = frontier

    def segment(self, wanted: Sequence[str], frontier: Sequence[str]) -> Segment:
        """Open the next segment: it gives the tensors ``wanted`` and ends at ``frontier``."""
        keep = tuple(frontier) if all(name in self.dtypes for name in frontier) else ()
        opened = Segment(self, tuple(wanted), keep, self._names)
        self._names = keep
        return opened


@dataclass(slots=True)
class Segment:
    """One part of a network: from the last frontier, or from the inputs, to the next."""

    relay: Relay
    wanted: tuple[str, ...]
    keep: tuple[str, ...]
    start: tuple[str, ...]
    _sessions: dict[bool, Session | None] = field(default_factory=dict)

    def run(self, index: int, feed: Arrays) -> dict[str, NDArray[Any]]:
        """The tensors wanted for batch ``index``; ``feed`` may be empty where the batch's frontier is kept."""
        held = self.relay.taken(index)
        given = dict(feed) if held is None else held
        names = [name for name in dict.fromkeys((*self.wanted, *self.keep)) if name not in given]
        session = self._session(names, given, kept=held is not None)
        found = given if session is None else {**given, **session.run({name: given[name] for name in session.inputs})}
        self.relay.keep(index, {name: found[name] for name in self.keep})
        return {name: found[name] for name in self.wanted}

    def _session(self, names: Sequence[str], given: Arrays, *, kept: bool) -> Session | None:
        if not names:
            return None
        if kept not in self._sessions:
            relay = self.relay
            model = cut(relay.model, {name: relay.dtypes[name] for name in given}, names) if kept else relay.model
            own = [name for name in model.graph.initializers if name in relay.weights]
            weights = LazyWeights(own, relay.weights.__getitem__)
            self._sessions[kept] = open_session(
                model, weights=weights, outputs=names, provider=relay.provider, optimise=True, alternating=True
            )
        return self._sessions[kept]


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


def feeds(source: CalibrationSource, relays: Sequence[Relay], batches: int) -> Iterator[Arrays]:
    """The calibration batches; empty ones where every network goes on from what was kept."""
    if any(relay.missing(batches) for relay in relays):
        yield from source
    else:
        yield from ({} for _ in range(batches))


def cut(model: ir.Model, start: Mapping[str, np.dtype[Any]], outputs: Sequence[str]) -> ir.Model:
    """A copy of what of the model computes ``outputs`` from the tensors ``start``, which become its inputs."""
    graph = ir.convenience.extract(model.graph, list(start), outputs)
    graph.inputs[:] = [value for value in graph.inputs if value.uses() or value.is_graph_output()]
    for value in graph.inputs:
        value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(start[str(value.name)])), None
    graph.meta.update(model.graph.meta)
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))


def blocked(graph: ir.Graph, pending: Collection[ir.Node]) -> set[ir.Node]:
    """The nodes ``pending`` and all that depend on them."""
    found: set[ir.Node] = set()
    for node in graph:
        if node in pending or any(value.producer() in found for value in operands(node)):
            found.add(node)
    return found


def frontier(graph: ir.Graph, behind: Collection[ir.Node]) -> list[str]:
    """The tensors that the nodes ``behind`` read of the others and of the inputs, in order of first use."""
    inputs = set(graph.inputs)
    nodes = set(graph)
    found: dict[str, None] = {}
    for node in graph:
        if node not in behind:
            continue
        for value in operands(node):
            producer = value.producer()
            if value in inputs or (producer in nodes and producer not in behind):
                found[str(value.name)] = None
    return list(found)
