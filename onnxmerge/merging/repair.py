"""Give every merged unit the mean and standard deviation that its parents have, where no BatchNorm can do it.

Averaging units that are not perfectly correlated shrinks their variance, layer after layer (variance collapse). REPAIR
(Jordan et al., ICLR 2023, arXiv 2211.08403) rescales and shifts each merged unit, before its nonlinearity and before a
residual Add, to

    mean m* = the mean over aligned parents of their means,     s* = the mean of their standard deviations,

by its own weights: w *= s*/s, b = (b - m) s*/s + m*, with m and s the merged network's on a prefix already repaired.
RESCALE changes the standard deviation alone: b = (b - m) s*/s + m. Bias-only changes the mean alone: b = b - m + m*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.axes.layout import AxisBlock, Block, TensorLayout, Typing
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.statistics import MomentRequest, Statistics
from onnxmerge.errors import UsageError
from onnxmerge.merging.batches import each
from onnxmerge.merging.combine import Matchings, average
from onnxmerge.merging.linear_layers import LinearLayer, linear_layers
from onnxmerge.merging.moments import Moments, Probe, Surgeon, levels, measure, settle
from onnxmerge.merging.normalisation import normalises
from onnxmerge.merging.transport import composite
from onnxmerge.merging.zip_transport import Zipped

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Vector: TypeAlias = NDArray[np.float64]
Mode: TypeAlias = Literal["none", "rescale", "repair", "bias"]
MODES = ("none", "rescale", "repair", "bias")
Which: TypeAlias = Literal["free", "fixed", "all"]

DEAD = 1e-4
"""A unit that varies less than this share of its target is constant up to rounding; it is shifted, not blown up.
So is one that is constant in all parents, not shrunk to nothing: on other data it may not be."""


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """The layers that can be repaired, what must be measured in the parents for it, and why others are left alone."""

    layers: tuple[LinearLayer, ...]
    requests: tuple[MomentRequest, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What a layer's output should have: mean and standard deviation of each channel, float64 [channels]."""

    mean: Vector
    std: Vector


def plan_repair(graph: ir.Graph, typing: Typing, which: Which = "free") -> RepairPlan:
    """Find the layers to repair: those whose output units carry a free space, those whose units are fixed, or all.

    "free" is what BatchNorm does: with it, a network with BatchNorm folded ends up as the one with BatchNorm kept.
    "fixed" are the embedding or the logits at the end before all: their units are aligned by definition, their
    variance collapses like any other's while their bias keeps its size. What helps is for ``selection`` to find out.
    """
    layers, notes = linear_layers(graph)
    chosen = [
        layer
        for layer in layers
        if layer.output in typing.activations and (which == "all" or _has_free(layer, typing) == (which == "free"))
    ]
    found, requests, unmeasured = measurable(chosen, typing)
    return RepairPlan(found, requests, (*notes, *unmeasured))


def measurable(
    layers: Sequence[LinearLayer], typing: Typing
) -> tuple[tuple[LinearLayer, ...], tuple[MomentRequest, ...], tuple[str, ...]]:
    """The layers whose units can be measured one by one in their outputs, what to ask for, and why not the others."""
    chosen, requests, notes = [], [], []
    for layer in layers:
        axis = _unit_axis(typing.activations[layer.output], layer.channel_axis)
        space = None if axis is None else _innermost(axis, typing)
        if space is None:
            notes.append(f"{layer.node}: units of {layer.output} do not stand in one grid of their own; left as it is")
            continue
        chosen.append(layer)
        requests.append(MomentRequest(layer.output, space))
    return tuple(chosen), tuple(requests), tuple(notes)


def channel_moments(
    layer: LinearLayer, request: MomentRequest, typing: Typing, statistics: Statistics, model: int
) -> tuple[Vector, Vector]:
    """Mean and standard deviation of each channel of a measurable layer's output in one model, float64 [channels]."""
    axis = _measured_axis(layer, typing)
    found = statistics.moments[model, request.tensor, request.space]
    mean, std = (_channels(units, axis, request.space, typing) for units in (found.mean, np.sqrt(found.variance)))
    return mean, std


def channel_layout(name: str, layer: LinearLayer, typing: Typing) -> TensorLayout:
    """The layout of a vector over the channels of a measurable layer's output."""
    axis = _measured_axis(layer, typing)
    return TensorLayout(name, (axis.positions.size,), (Block((axis,)),))


def applies(graph: ir.Graph, typing: Typing) -> bool:
    """Whether repair of free units is on unless the user says otherwise: where nothing else restores their statistics.

    Two signs together. No activation is normalised (see ``normalises``): with BatchNorm kept the exact remedy is to
    re-estimate its statistics, and layer, group and RMS norms restore the scale sample by sample themselves. And every
    layer with free units has a bias: that is how a network looks whose BatchNorm was folded away (its shift is kept
    there), and where there is none the mean cannot be set, so it would be half a repair. A plain ReLU network with
    biases looks the same, and its variance collapses in the same way.
    """
    layers = plan_repair(graph, typing).layers
    return bool(layers) and all(layer.bias is not None for layer in layers) and not normalises(graph)


def targets(
    plan: RepairPlan,
    typing: Typing,
    statistics: Statistics,
    matchings: Matchings,
    *,
    shares: Sequence[float] | None = None,
) -> dict[str, Target]:
    """Each layer's target, by output tensor: the mean over parents, or over the members of a zipped unit.

    ``statistics`` must answer ``plan.requests`` for every parent; ``shares`` has one number for each parent (equal by
    default).
    """
    count = len(matchings.models) if isinstance(matchings, Zipped) else len(matchings) + 1
    shares = [1 / count] * count if shares is None else shares
    found = {}
    for layer, request in zip(plan.layers, plan.requests, strict=True):
        channels = channel_layout(f"channels of {layer.output}", layer, typing)
        parents = [channel_moments(layer, request, typing, statistics, model) for model in range(count)]
        means, stds = ([each[part] for each in parents] for part in (0, 1))
        found[layer.output] = Target(
            average(means, channels, typing, matchings, shares), average(stds, channels, typing, matchings, shares)
        )
    return found


def repair(
    model: ir.Model,
    typing: Typing,
    weights: Arrays,
    plan: RepairPlan,
    aims: Mapping[str, Target],
    source: CalibrationSource,
    *,
    mode: Mode = "repair",
    provider: str = "cpu",
    known: Mapping[str, Moments] | None = None,
) -> dict[str, NDArray[Any]]:
    """The weights and biases that give the merged network's units their targets, by name, in their stored types.

    ``known`` are moments that were already taken (``independent_moments``); then nothing is run.

    ``mode`` "rescale" sets standard deviations alone, and so does "repair" in a layer without a bias; "bias" sets
    means alone, and leaves such a layer as it is. Raises InputError where the source is empty or activations are not
    finite, UsageError for another mode.
    """
    if mode == "none":
        return {}
    if mode not in MODES:
        raise UsageError(f"unknown repair mode {mode!r}; expected {', '.join(MODES)}")
    movable = [layer for layer in plan.layers if mode != "bias" or layer.bias is not None]
    layers = {layer.output: layer for layer in movable if layer.output in aims}
    probes = [_probe(model.graph, layer, typing) for layer in layers.values()]
    if not probes:
        return {}

    def rewrite(surgeon: Surgeon, probe: Probe, centred: ir.Value, mean: ir.Value, variance: ir.Value) -> None:
        _use_target(surgeon, probe, layers[probe.tensor], aims[probe.tensor], mode, (centred, mean, variance))

    def fold(current: Arrays, moments: Mapping[str, Moments]) -> dict[str, NDArray[Any]]:
        changed = {}
        for tensor, own in moments.items():
            layer, aim = layers[tensor], aims[tensor]
            dead = (own.std <= DEAD * aim.std) | (aim.std == 0)
            scaled = np.where(dead, 1.0, aim.std / np.where(dead, 1.0, own.std))
            factors = np.ones_like(scaled) if mode == "bias" else scaled
            changed[layer.weight] = layer.scale_weight(current[layer.weight], factors)
            if layer.bias is not None:
                aimed = own.mean if mode == "rescale" else aim.mean
                changed[layer.bias] = layer.move_bias(current[layer.bias], factors, own.mean, aimed)
        return changed

    if known is not None:
        return fold(weights, {tensor: known[tensor] for tensor in layers})
    return settle(model, weights, probes, source, rewrite=rewrite, fold=fold, provider=provider)


def independent_moments(
    model: ir.Model, typing: Typing, weights: Arrays, plan: RepairPlan, source: CalibrationSource, provider: str
) -> dict[str, Moments] | None:
    """The moments of all layers of a plan, which serve every mode; None where repairing one layer changes another."""
    probes = [_probe(model.graph, layer, typing) for layer in plan.layers]
    if len(levels(model.graph, probes)) > 1:
        return None
    return measure(model, weights, probes, each(source), provider=provider) if probes else {}


def _use_target(
    surgeon: Surgeon,
    probe: Probe,
    layer: LinearLayer,
    aim: Target,
    mode: Mode,
    measured: tuple[ir.Value, ir.Value, ir.Value],
) -> None:
    """Let all that reads the layer's output see (y - m)/s s* + m* (as ``mode`` says), with m and s the batch's own."""
    centred, mean, variance = measured
    wide = np.dtype(np.float64 if probe.wide == ir.DataType.DOUBLE else np.float32)
    value = surgeon.values[probe.tensor]
    inserted = {centred.producer()} | {user for user, _ in value.uses() if (user.name or "").startswith("onnxmerge::")}
    readers = [(user, index) for user, index in value.uses() if user not in inserted]
    shape = [1] * probe.rank
    shape[probe.channel] = -1
    aimed = surgeon.constant(aim.mean.reshape(shape).astype(wide))
    if mode == "bias":
        result = surgeon.apply("Add", centred, aimed)
    else:
        floor = np.maximum(DEAD * aim.std, np.finfo(np.float32).tiny)
        std = surgeon.apply("Sqrt", variance)
        std = surgeon.apply("Max", std, surgeon.constant(floor.reshape(shape).astype(wide)))
        factors = surgeon.apply("Div", surgeon.constant(aim.std.reshape(shape).astype(wide)), std)
        constant = surgeon.constant((aim.std == 0).reshape(shape))
        factors = surgeon.apply("Where", constant, surgeon.constant(np.ones([1] * probe.rank, wide)), factors)
        kept = mean if layer.bias is not None else surgeon.apply("Mul", mean, factors)
        shifted = mode == "repair" and layer.bias is not None
        result = surgeon.apply("Add", surgeon.apply("Mul", centred, factors), aimed if shifted else kept)
    if probe.dtype != probe.wide:
        result = surgeon.cast(result, probe.dtype)
    for user, index in readers:
        user.replace_input_with(index, result)


def _probe(graph: ir.Graph, layer: LinearLayer, typing: Typing) -> Probe:
    dtype = graph.initializers[layer.weight].dtype or ir.DataType.FLOAT
    return Probe(layer.output, layer.channel_axis, len(typing.activations[layer.output].shape), dtype)


def _unit_axis(layout: TensorLayout, channel: int) -> AxisBlock | None:
    """The channel axis, if it is one grid of spaces in every block of the tensor."""
    axes = [block.axes[channel] for block in layout.blocks]
    first = axes[0] if axes else None
    if first is None or first.positions.size != layout.shape[channel]:
        return None
    if any(axis.spaces != first.spaces or not np.array_equal(axis.positions, first.positions) for axis in axes):
        return None
    return first


def _measured_axis(layer: LinearLayer, typing: Typing) -> AxisBlock:
    axis = _unit_axis(typing.activations[layer.output], layer.channel_axis)
    if axis is None:
        raise ValueError(f"{layer.output}: its units are not measurable one by one")
    return axis


def _has_free(layer: LinearLayer, typing: Typing) -> bool:
    return any(
        typing.spaces[name].free and typing.spaces[name].size > 1
        for block in typing.activations[layer.output].blocks
        for name in block.axes[layer.channel_axis].spaces
    )


def _innermost(axis: AxisBlock, typing: Typing) -> str | None:
    """The space that, with the outer ones it varies with, names each unit of the axis."""
    names = _several(axis.spaces, typing)
    for name in names:
        if len(set(names)) == len(names) and set(_several(composite(name, typing.spaces), typing)) == set(names):
            return name
    return None


def _several(names: Sequence[str], typing: Typing) -> list[str]:
    """Those of the spaces that have more than one unit; the others make no difference to a grid."""
    return [name for name in names if typing.spaces[name].size > 1]


def _channels(units: Vector, axis: AxisBlock, space: str, typing: Typing) -> Vector:
    """A vector over a composite space's units as one over channels."""
    order, names = _several(composite(space, typing.spaces), typing), _several(axis.spaces, typing)
    grid = units.reshape([typing.spaces[name].size for name in order])
    grid = grid.transpose([order.index(name) for name in names])
    channels = np.empty(axis.positions.size)
    channels[axis.positions.reshape(grid.shape)] = grid
    return channels
