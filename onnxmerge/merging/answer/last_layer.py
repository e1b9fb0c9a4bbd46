"""The last linear layer before an output: what it reads, and how both it and its answers are rows of numbers.

Only operators stand between it and the output that change no units among each other's order (SHAPING), and perhaps one
that ends the network (Softmax, Sigmoid, a division by the length): so what the layer should give follows from what the
output should say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.activations.patches import Picks, pick, values_at
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.merging.answer.meaning import SHAPING, ending
from onnxmerge.merging.closed_form.sample_size import ROWS, too_wide
from onnxmerge.merging.closed_form.targets import LayerTarget, plan_layers
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.session import open_session
from onnxmerge.model.traits import has
from onnxmerge.types import Arrays, Rows
from onnxmerge.units.layout import Typing

MEMORY = 1 << 28
"""Bytes of rows that are kept, of all networks together."""


@dataclass(frozen=True, slots=True, eq=False)
class LastLayer:
    """A linear layer and the output that it gives; ``target.output`` is the layer's own tensor."""

    target: LayerTarget
    output: ir.Value

    @property
    def axis(self) -> int:
        return self.target.axis


def last_layers(graph: ir.Graph, typing: Typing) -> tuple[list[LastLayer], list[str]]:
    """The layer of each float output, and the names of the outputs that no layer can be solved for."""
    targets = {target.output: target for target in plan_layers(graph, typing)[0]}
    found: list[LastLayer] = []
    without: list[str] = []
    for value in graph.outputs:
        if value.dtype is not None and not value.dtype.is_floating_point():
            continue
        target = _behind(value, targets)
        if target is None or too_wide(target) or any(other.target is target for other in found):
            without.append(str(value.name))
        else:
            found.append(LastLayer(target, value))
    return found, without


def _behind(value: ir.Value, targets: Mapping[str, LayerTarget]) -> LayerTarget | None:
    """The layer whose output reaches ``value`` through SHAPING, and at most one operator that ends the network."""
    end = ending(value)
    current: ir.Value | None = value
    while current is not None:
        target = targets.get(str(current.name))
        if target is not None:
            return target
        node = current.producer()
        if node is None or (not has(node, *SHAPING) and node is not end):
            return None
        current = node.inputs[0]
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one layer reads in the merged network, x [groups, n, d], and what it and the parents' layers give.

    ``merged`` and each of ``parents`` are [n, units], at the same n positions of the same samples. ``samples`` [n] are
    the numbers of the samples that the positions are of.
    """

    x: Rows
    merged: Rows
    parents: tuple[Rows, ...]
    samples: NDArray[np.int64]

    def of(self, chosen: NDArray[np.bool_]) -> Answers:
        """The answers at some of the positions, bool [n]."""
        return Answers(
            self.x[:, chosen], self.merged[chosen], tuple(own[chosen] for own in self.parents), self.samples[chosen]
        )


@dataclass(frozen=True, slots=True, eq=False)
class ParentAnswers:
    """What one layer gives in each of the ``parents`` [n, units], at ``picks`` of each feed of some data."""

    picks: tuple[Picks, ...]
    parents: tuple[Rows, ...]
    samples: NDArray[np.int64]


def parent_answers(
    layers: Sequence[LastLayer], models: ModelSet, source: CalibrationSource, *, provider: str = "cpu", seed: int = 0
) -> list[ParentAnswers]:
    """Run the parents over the data once, and keep what each layer gives, within MEMORY.

    Positions are drawn evenly over all feeds.
    """
    if not layers:
        return []
    tensors, every = [layer.target.output for layer in layers], models.weights
    template = models.template.model
    sessions = [
        open_session(template, weights=own, outputs=tensors, provider=provider, optimise=True, alternating=True)
        for own in every
    ]
    rng, sizes = np.random.default_rng(seed), source.sizes
    found: list[list[tuple[Picks, tuple[Rows, ...]]]] = [[] for _ in layers]
    firsts = [0, *accumulate(sizes)]
    for feed in source:
        given = [session.run(feed) for session in sessions]
        for layer, kept in zip(layers, found, strict=True):
            name, axis = layer.target.output, layer.axis
            picks = pick(given[0][name].shape, axis, -(-_rows(layer, len(every)) // len(sizes)), rng)
            kept.append((picks, tuple(values_at(own[name], axis, picks) for own in given)))
    return [
        ParentAnswers(
            tuple(picks for picks, _ in kept),
            tuple(map(np.concatenate, zip(*(own for _, own in kept), strict=True))),
            np.concatenate([first + picks[0] for first, (picks, _) in zip(firsts, kept, strict=False)]),
        )
        for kept in found
    ]


def answers_of(
    layers: Sequence[LastLayer],
    network: Network,
    weights: Arrays,
    theirs: Sequence[ParentAnswers],
    source: CalibrationSource,
    *,
    provider: str = "cpu",
) -> list[Answers]:
    """Run the merged network over the data on which the parents were asked, and keep what each layer reads and gives.

    ``theirs`` is what the parents gave, for each of the ``layers``.
    """
    names = [name for layer in layers for name in (layer.target.output, layer.target.source)]
    outputs = list(dict.fromkeys(names))
    session = open_session(network.model, weights=weights, outputs=outputs, provider=provider, optimise=True)
    read: list[list[Rows]] = [[] for _ in layers]
    given: list[list[Rows]] = [[] for _ in layers]
    for index, feed in enumerate(source):
        own = session.run(feed)
        for layer, parents, x, y in zip(layers, theirs, read, given, strict=True):
            target, picks = layer.target, parents.picks[index]
            x.append(target.form.rows(own[target.source], picks))
            y.append(values_at(own[target.output], layer.axis, picks))
    return [
        Answers(np.concatenate(x, axis=1), np.concatenate(y), parents.parents, parents.samples)
        for x, y, parents in zip(read, given, theirs, strict=True)
    ]


def _rows(layer: LastLayer, parents: int) -> int:
    """How many positions of a layer are kept."""
    target = layer.target
    wide = target.features * target.form.groups + (parents + 1) * target.layer.units
    return max(min(ROWS, MEMORY // (4 * wide)), 1)
