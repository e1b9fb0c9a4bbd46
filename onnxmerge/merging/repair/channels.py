"""The linear layers whose output units can be measured one by one, and what was measured of them, by channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxmerge.activations.columns import unit_columns
from onnxmerge.activations.statistics import MomentRequest, Statistics
from onnxmerge.model.linear_layers import LinearLayer
from onnxmerge.types import Floats
from onnxmerge.units.layout import AxisBlock, Block, TensorLayout, Typing
from onnxmerge.units.permutations import composite


def measurable(
    layers: Sequence[LinearLayer], typing: Typing
) -> tuple[tuple[LinearLayer, ...], tuple[MomentRequest, ...], tuple[str, ...]]:
    """The layers whose units can be measured one by one in their outputs, what to ask for, and why not the others."""
    chosen, requests, notes = [], [], []
    for layer in layers:
        axis = _unit_axis(typing.activations[layer.output], layer.channel_axis)
        space = None if axis is None else _innermost(axis, typing)
        if space is None or not unit_columns(typing.activations[layer.output], composite(space, typing.spaces)):
            notes.append(f"{layer.node}: units of {layer.output} do not stand in one grid of their own; left as it is")
            continue
        chosen.append(layer)
        requests.append(MomentRequest(layer.output, space))
    return tuple(chosen), tuple(requests), tuple(notes)


def channel_moments(
    layer: LinearLayer, request: MomentRequest, typing: Typing, statistics: Statistics, model: int
) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each channel of a measurable layer's output in one model, float64 [channels]."""
    axis = _measured_axis(layer, typing)
    found = statistics.moments[model, request.tensor, request.space]
    mean, std = (_channels(units, axis, request.space, typing) for units in (found.mean, np.sqrt(found.variance)))
    return mean, std


def channel_layout(name: str, layer: LinearLayer, typing: Typing) -> TensorLayout:
    """The layout of a vector over the channels of a measurable layer's output."""
    axis = _measured_axis(layer, typing)
    return TensorLayout(name, (axis.positions.size,), (Block((axis,)),))


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


def _channels(units: Floats, axis: AxisBlock, space: str, typing: Typing) -> Floats:
    """A vector over a composite space's units as one over channels."""
    order, names = _several(composite(space, typing.spaces), typing), _several(axis.spaces, typing)
    grid = units.reshape([typing.spaces[name].size for name in order])
    grid = grid.transpose([order.index(name) for name in names])
    channels = np.empty(axis.positions.size)
    channels[axis.positions.reshape(grid.shape)] = grid
    return channels
