"""The last linear layer before an output: what it reads, and how both it and its answers are rows of numbers.

Only operators stand between it and the output that change no units among each other's order (SHAPING), and perhaps one
that ends the network (Softmax, Sigmoid, a division by the length): so what the layer should give follows from what the
output should say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.activations.patches import pick, values_at
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.merging.answer.meaning import SHAPING, ending
from onnxmerge.merging.closed_form.sample_size import ROWS, too_wide
from onnxmerge.merging.closed_form.targets import LayerTarget, plan_layers
from onnxmerge.model.network import Network
from onnxmerge.model.session import open_session, open_sessions, run
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


def answers_of(
    layers: Sequence[LastLayer],
    network: Network,
    weights: Arrays,
    parents: tuple[Network, Sequence[Arrays]],
    source: CalibrationSource,
    *,
    provider: str = "cpu",
    seed: int = 0,
) -> list[Answers]:
    """Run the merged network and its parents over the data once, and keep rows of each layer within MEMORY.

    ``parents`` are their common graph and each one's weights. Positions are drawn evenly over all batches.
    """
    tensors = [layer.target.output for layer in layers]
    merged = open_session(
        network.model,
        weights=weights,
        outputs=list(dict.fromkeys([*tensors, *(layer.target.source for layer in layers)])),
        provider=provider,
        optimise=True,
        alternating=True,
    )
    template, every = parents
    sessions = open_sessions(template.model, every, outputs=tensors, provider=provider, optimise=True, alternating=True)
    batches, rng = len(source.sizes), np.random.default_rng(seed)
    parts: list[list[Answers]] = [[] for _ in layers]
    seen = 0
    for feed in source:
        own = run(merged, dict(feed))
        theirs = [run(session, dict(feed)) for session in sessions]
        for layer, kept in zip(layers, parts, strict=True):
            shape = own[layer.target.output].shape
            picks = pick(shape, layer.axis, -(-_rows(layer, len(every)) // batches), rng)
            kept.append(
                Answers(
                    layer.target.form.rows(own[layer.target.source], picks),
                    values_at(own[layer.target.output], layer.axis, picks),
                    tuple(values_at(given[layer.target.output], layer.axis, picks) for given in theirs),
                    seen + picks[0],
                )
            )
        seen += max((len(array) for array in feed.values() if array.ndim), default=1)
    return [_joined(kept) for kept in parts]


def _rows(layer: LastLayer, parents: int) -> int:
    """How many positions of a layer are kept."""
    target = layer.target
    wide = target.features * target.form.groups + (parents + 1) * target.layer.units
    return max(min(ROWS, MEMORY // (4 * wide)), 1)


def _joined(parts: Sequence[Answers]) -> Answers:
    return Answers(
        np.concatenate([part.x for part in parts], axis=1),
        np.concatenate([part.merged for part in parts]),
        tuple(np.concatenate(own) for own in zip(*(part.parents for part in parts), strict=True)),
        np.concatenate([part.samples for part in parts]),
    )
