"""How much a network's outputs depend on each position of a tensor: measured, without labels.

Least squares counts an error alike wherever it stands, and the outputs do not. Of a transformer that answers with its
first token, errors of this token reach the answer, those of others only through attention, and in the last block not at
all. With f the network from a tensor T to its outputs, position p has the sensitivity

    s_p = mean over samples and parents of |f(T + e_p) - f(T)|^2 / |f(T) - mean f(T)|^2,

e_p being noise at this position alone, a share NOISE of each unit's deviation. That is the trace of the position's
block of the Gauss-Newton matrix, by finite differences. Positions are tried in groups, and the group that matters most
is halved until there are GROUPS of them: to try each position by itself takes too long, and most matter alike. Where
the first FIRST groups matter about alike, as those of images do in convolutions, all positions count alike.

Source: the Gauss-Newton matrix as a metric of what outputs feel: Schraudolph, Neural Computation 14 (2002); that rows
of a layer's regression count by it is our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxmerge.activations.segments import MemoryBudget, Relay, blocked, cut, frontier
from onnxmerge.calibration.batches import parts, takes_any
from onnxmerge.calibration.chunks import rows
from onnxmerge.calibration.subset import Spread
from onnxmerge.merging.closed_form.context import MergeContext
from onnxmerge.merging.closed_form.targets import LayerTarget
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.session import Session, open_session
from onnxmerge.model.signature import operands
from onnxmerge.types import Array, Arrays, Floats, Positions

GROUPS = 16
"""Groups of positions that are told apart."""

FIRST = 4
"""Groups after which it is known whether positions matter alike."""

ALIKE = 2.5
"""They do where none of these groups matters more than so many times as much as the mean."""

SAMPLES = 16
"""Samples on which sensitivities are measured, where the network takes as few."""

NOISE = 0.1
"""What is added, as a share of each unit's deviation: little enough for a derivative, plenty for float32."""


class OutputSensitivity:
    """The parents on their way through the layers with a few samples."""

    def __init__(self, context: MergeContext) -> None:
        self.context, self.model = context, context.models.template.model
        budget = MemoryBudget(context.memory)
        self.relays = [
            Relay(self.model, own, context.dtypes, budget, context.provider) for own in context.models.weights
        ]
        most = SAMPLES if takes_any(self.model) else None
        self.feeds = [next(parts(feed, most), feed) for feed in Spread(context.source, SAMPLES)]

    def __call__(self, target: LayerTarget, edge: Sequence[str], seed: Sequence[int]) -> Floats | None:
        """The sensitivity of each position of a layer's target, as shares that add up to 1.

        In the shape of all axes but the samples' and the units'. None where all matter about alike, or it cannot be
        told: the tensor is an output, no output is a float, none depends on it, or samples do not stand along its first
        axis. ``edge`` is what the network behind the layer reads of the network before.
        """
        graph, dtypes = self.model.graph, self.context.dtypes
        readers = {node for node in graph if any(value.name == target.tensor for value in operands(node))}
        behind = blocked(graph, readers)
        start = frontier(graph, behind)
        outputs = [
            str(value.name)
            for value in graph.outputs
            if value.producer() in behind and (value.dtype is None or value.dtype.is_floating_point())
        ]
        if target.tensor not in start or not outputs or not all(name in dtypes for name in start):
            return None
        batches: list[_Batch] = []
        for relay in self.relays:
            segment = relay.segment(start, edge)
            values = [segment.run(index, feed) for index, feed in enumerate(self.feeds)]
            session = self._behind(relay.weights, start, outputs)
            batches += [_Batch(session, own, target.tensor, target.axis) for own in values]
        sizes = [rows(feed) for feed in self.feeds] * len(self.relays)
        if not all(batch.has_positions(size) for batch, size in zip(batches, sizes, strict=True)):
            return None
        if len({batch.shape for batch in batches}) > 1:
            return None
        return _by_groups(batches, np.random.default_rng(list(seed)))

    def _behind(self, weights: Arrays, start: Sequence[str], outputs: Sequence[str]) -> Session:
        """What follows the tensors ``start``."""
        model = cut(self.model, {name: self.context.dtypes[name] for name in start}, outputs)
        own = LazyWeights([name for name in model.graph.initializers if name in weights], weights.__getitem__)
        return open_session(model, weights=own, outputs=outputs, provider=self.context.provider, optimise=True)


@dataclass(slots=True, eq=False)
class _Batch:
    """The ``values`` at which one parent is cut behind ``tensor``, on a batch of samples, and what follows them."""

    session: Session
    values: Mapping[str, Array]
    tensor: str
    axis: int
    _plain: dict[str, Array] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the positions."""
        sizes = self.values[self.tensor].shape
        return tuple(size for axis, size in enumerate(sizes) if axis not in (0, self.axis % len(sizes)))

    def has_positions(self, samples: int) -> bool:
        """Whether the tensor has several positions for each of so many samples, which stand along its first axis."""
        value = self.values[self.tensor]
        return value.ndim > 2 and self.axis % value.ndim > 0 and len(value) == samples and math.prod(self.shape) > 1

    def response(self, group: Positions, rng: np.random.Generator) -> float:
        """How far the outputs move, as a share of what they vary, by noise at a ``group`` of positions."""
        value = self.values[self.tensor]
        units = np.moveaxis(np.asarray(value, np.float64), self.axis, -1)
        deviation = units.reshape(-1, units.shape[-1]).std(axis=0)
        where = np.zeros(self.shape)
        where.reshape(-1)[group] = NOISE
        moved = units + rng.standard_normal(units.shape) * deviation * where[..., None]
        if not self._plain:
            self._plain = self._run(value)
        found = self._run(np.moveaxis(moved, -1, self.axis).astype(value.dtype))
        return float(np.mean([_distance(found[name], plain) for name, plain in self._plain.items()]))

    def _run(self, value: Array) -> dict[str, Array]:
        given = {**self.values, self.tensor: value}
        return self.session.run({name: given[name] for name in self.session.inputs})


def _distance(found: Array, plain: Array) -> float:
    """The mean squared distance of two outputs as a share of what the second varies; 0 where it is not a number."""
    wide = plain.astype(np.float64)
    spread, far = float(wide.var()), float(np.square(found - wide).mean())
    return far / spread if spread > 0 and np.isfinite(far) else 0.0


def _by_groups(batches: Sequence[_Batch], rng: np.random.Generator) -> Floats | None:
    """The sensitivities of positions, told apart by groups; None where all are about alike."""
    shape = batches[0].shape

    def measured(group: Positions) -> tuple[float, Positions]:
        return float(np.mean([batch.response(group, rng) for batch in batches])), group

    groups = [measured(group) for group in np.array_split(np.arange(math.prod(shape)), FIRST) if group.size]
    if max(response / group.size for response, group in groups) < ALIKE * _mean(groups):
        return None
    while len(groups) < GROUPS and (several := [place for place, (_, own) in enumerate(groups) if own.size > 1]):
        _, most = groups.pop(max(several, key=lambda place: groups[place][0]))
        groups += [measured(half) for half in np.array_split(most, 2)]
    found = np.zeros(shape)
    for response, group in groups:
        found.reshape(-1)[group] = response / group.size
    total = found.sum()
    return found / total if total > 0 else None


def _mean(groups: Sequence[tuple[float, Positions]]) -> float:
    """The mean sensitivity of a position."""
    return sum(response for response, _ in groups) / sum(group.size for _, group in groups)
