"""What layers aim at: the parents' own values of each layer's target, at sampled positions.

Parents do not change while the merged network is solved. So they run a *stretch* of layers at a time, as many as what
is kept of them has room for, and whatever is sampled for these layers is taken from the same runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from onnxmerge.activations.patches import Picks, draw, pick, values_at
from onnxmerge.activations.segments import MemoryBudget, Relay, feeds
from onnxmerge.calibration.specs import input_specs
from onnxmerge.merging.closed_form.consensus import consensus
from onnxmerge.merging.closed_form.context import MergeContext
from onnxmerge.merging.closed_form.failures import no_data
from onnxmerge.merging.closed_form.sample_size import rows
from onnxmerge.merging.closed_form.targets import LayerTarget
from onnxmerge.types import Array, Floats, Rows
from onnxmerge.units.alignment import UnitAlignment, reordered

STRETCH = 1 << 26
"""Bytes that a stretch of several layers may take: its targets in one batch of one parent, and what is kept of all. It
does not depend on what is free: how a network is cut may decide how its values are rounded."""


@dataclass(frozen=True, slots=True, eq=False)
class PlannedLayer:
    """A layer that is to be solved: step ``number``, whose parents' units meet by ``units``.

    ``edge`` is what the network from here on reads of the network before. ``directional`` says that only the direction
    of the target counts, so that parents' answers are agreed on (``consensus``).
    """

    number: int
    target: LayerTarget
    units: UnitAlignment
    edge: tuple[str, ...]
    directional: bool = False


Chances: TypeAlias = Callable[[PlannedLayer], Floats | None]
"""How often each position of a layer counts among the rows; None where all count alike."""


@dataclass(frozen=True, slots=True, eq=False)
class Sampling:
    """Which positions of a layer's target are taken: at most ``count`` of each batch, by ``chances`` if given."""

    axis: int
    count: int
    seed: tuple[int, int]
    chances: Floats | None

    def picks(self, shape: tuple[int, ...], batch: int) -> Picks:
        """The positions that are taken of the target in batch number ``batch``, of this shape: always the same."""
        rng, axis = np.random.default_rng((*self.seed, batch)), self.axis % len(shape)
        if self.chances is None or shape[1:axis] + shape[axis + 1 :] != self.chances.shape:
            return pick(shape, axis, self.count, rng)
        return draw(shape, axis, self.count, self.chances, rng)


@dataclass(frozen=True, slots=True, eq=False)
class Aim:
    """What one layer aims at: ``rows`` [positions, units] of each batch, and the shapes that the target has there.

    They are the mean over the units that meet, or what the parents agreed on. ``deviation`` [units] is the mean over
    parents of each unit's standard deviation, ``size`` that of the root mean square about zero; where parents agreed,
    they are the aim's own.
    """

    sampling: Sampling
    shapes: tuple[tuple[int, ...], ...]
    rows: tuple[Rows, ...]
    deviation: Floats
    size: Floats

    def picks(self, batch: int) -> Picks:
        """The positions of the target that the rows of a batch are of."""
        return self.sampling.picks(self.shapes[batch], batch)


class ParentTargets:
    """The parents on their way through ``layers``, which are solved in this order."""

    def __init__(
        self, context: MergeContext, layers: Sequence[PlannedLayer], budget: MemoryBudget, chances: Chances
    ) -> None:
        model = context.models.template.model
        self.context, self.chances = context, chances
        self.relays = [Relay(model, own, context.dtypes, budget, context.provider) for own in context.models.weights]
        self.batches = len(context.source.sizes)
        self.stretches = list(_stretches(context, layers))
        self.edges = [stretch[0].edge for stretch in self.stretches[1:]] + [()]
        self.passed = 0
        self.found: dict[int, Aim] = {}

    def aim(self, number: int) -> Aim:
        """What the layer of step ``number`` aims at; asked for once each, in order, where at all.

        Raises InputError where there is no data that reaches it.
        """
        while number not in self.found:
            stretch, edge = self.stretches[self.passed], self.edges[self.passed]
            self.found = {layer.number: found for layer, found in zip(stretch, self._run(stretch, edge), strict=True)}
            self.passed += 1
        return self.found.pop(number)

    def _run(self, stretch: Sequence[PlannedLayer], edge: Sequence[str]) -> list[Aim]:
        """Run every parent past a stretch of layers."""
        collected = [_Collected(layer, self._sampling(layer)) for layer in stretch]
        wanted = list(dict.fromkeys(layer.target.tensor for layer in stretch))
        segments = [relay.segment(wanted, edge) for relay in self.relays]
        for batch, feed in enumerate(feeds(self.context.source, self.relays, self.batches)):
            values: list[list[Rows]] = [[] for _ in stretch]
            for model, segment in enumerate(segments):
                given = segment.run(batch, feed)
                for own, layer in zip(values, collected, strict=True):
                    own.append(layer.taken(given[layer.planned.target.tensor], batch, model))
            for own, layer in zip(values, collected, strict=True):
                layer.add(own)
        return [layer.aim(self.context.parts) for layer in collected]

    def _sampling(self, layer: PlannedLayer) -> Sampling:
        """Which positions of a layer's target are taken."""
        target, seed = layer.target, (self.context.seed, layer.number)
        return Sampling(target.axis, rows(target, self.batches), seed, self.chances(layer))


@dataclass(slots=True, eq=False)
class _Collected:
    """What is taken of one layer's target, batch by batch: ``rows`` of the mean, or of every parent (``apart``)."""

    planned: PlannedLayer
    sampling: Sampling
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    apart: list[list[Rows]] = field(default_factory=list)
    count: int = 0
    first: Floats = field(default_factory=lambda: np.zeros(()))
    second: Floats = field(default_factory=lambda: np.zeros(()))

    def taken(self, value: Array, batch: int, model: int) -> Rows:
        """The target of one parent at the positions that are taken [positions, channels], its other axes in order."""
        value = reordered(value, self.planned.units.before[model])
        if model == 0:
            self.shapes.append(value.shape)
        return values_at(value, self.sampling.axis, self.sampling.picks(value.shape, batch))

    def add(self, parents: list[Rows]) -> None:
        """Add a batch of all parents."""
        if self.planned.directional:
            self.apart.append(parents)
            return
        self._count(parents)
        self.rows.append(self.planned.units.mean(parents))

    def _count(self, parents: Sequence[Rows]) -> None:
        self.count += len(parents[0])
        self.first = self.first + np.stack([own.sum(axis=0, dtype=np.float64) for own in parents])
        self.second = self.second + np.stack([np.square(own, dtype=np.float64).sum(axis=0) for own in parents])

    def aim(self, shares: Sequence[float]) -> Aim:
        """What the layer aims at, by everything that was added."""
        if self.planned.directional and any(len(parents[0]) for parents in self.apart):
            agreed = consensus([np.concatenate(own) for own in zip(*self.apart, strict=True)], shares)
            for parents in self.apart:
                self.rows.append(agreed.at_length(parents))
                self._count(self.rows[-1:])
        if not self.count:
            raise no_data()
        mean, size = self.first / self.count, self.second / self.count
        deviation, root = (self._wanted(np.sqrt(each)) for each in (np.maximum(size - mean**2, 0.0), size))
        return Aim(self.sampling, tuple(self.shapes), tuple(self.rows), deviation, root)

    def _wanted(self, parents: Floats) -> Floats:
        """The mean over the units that meet, of a number for each unit of each parent."""
        return parents[0] if self.planned.directional else self.planned.units.mean(list(parents))


def _stretches(context: MergeContext, layers: Sequence[PlannedLayer]) -> Iterator[tuple[PlannedLayer, ...]]:
    """The layers in order, cut where a stretch takes more than STRETCH."""
    held: list[PlannedLayer] = []
    taken, scale = 0, _scale(context)
    for layer in layers:
        size = _size(context, layer, scale)
        if held and taken + size > STRETCH:
            yield tuple(held)
            held, taken = [], 0
        held.append(layer)
        taken += size
    if held:
        yield tuple(held)


def _size(context: MergeContext, layer: PlannedLayer, scale: float) -> int:
    """The bytes that a layer takes: its target in the largest batch, ``scale`` times the traced one, and its rows."""
    shape = context.typing.activations[layer.target.tensor].shape
    channels, batches = shape[layer.target.axis % len(shape)], len(context.source.sizes)
    values = math.ceil(scale * math.prod(shape))
    kept = min(rows(layer.target, batches), math.ceil(values / channels)) * batches
    each = len(context.models.weights) if layer.directional else 1
    return (values + kept * channels * each) * np.dtype(np.float32).itemsize


def _scale(context: MergeContext) -> float:
    """How many times as many numbers as were traced the largest batch has, in that input where it is most.

    The data is looked through where samples may differ in length.
    """
    model, layouts = context.models.template.model, context.typing.activations
    specs = [spec for spec in input_specs(model) if spec.name in layouts]
    if all(spec.shape and None not in spec.shape[1:] for spec in specs):
        most = max(context.source.sizes, default=1)
        return max((most / layouts[spec.name].shape[0] for spec in specs), default=float(most))
    traced = {spec.name: max(math.prod(layouts[spec.name].shape), 1) for spec in specs}
    return max(feed[name].size / size for feed in context.source for name, size in traced.items())
