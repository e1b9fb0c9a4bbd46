"""Linear layers as plain matrices: the rows of input that a layer multiplies, and its weight as a matrix.

A row is what one output position reads: the input vector of a Gemm or MatMul, the patch under the kernel of a Conv.
Rows are gathered for sampled positions alone, one kernel tap after another. A grouped convolution is as many
matrices as it has groups; everything else is one group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.model.linear_layers import LinearLayer

Picks: TypeAlias = tuple[NDArray[np.int64], ...]
"""Sampled positions of a layer's output: one index array for each axis but the channels'."""


@dataclass(frozen=True, slots=True)
class Window:
    """The geometry of a convolution over its spatial axes."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str

    def begins(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The padding before each spatial axis, for an input of these sizes."""
        if not self.auto_pad.startswith("SAME"):
            return self.pads[: len(sizes)] if self.auto_pad == "NOTSET" else (0,) * len(sizes)
        found = []
        for size, kernel, stride, dilation in zip(sizes, self.kernel, self.strides, self.dilations, strict=True):
            total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            found.append(total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Form:
    """How a layer is a matrix: ``groups`` matrices of [units, features].

    ``window`` is None for a Gemm or MatMul. ``turned`` says that the weight is stored as [features, units],
    ``transposed`` that the input is (Gemm's transA); ``scale`` multiplies the product (Gemm's alpha).
    """

    window: Window | None = None
    groups: int = 1
    turned: bool = False
    transposed: bool = False
    scale: float = 1.0

    def matrix(self, weight: NDArray[Any]) -> NDArray[np.float64]:
        """The weight as matrices [groups, units, features], for which the layer is y = W x + b."""
        wide = weight.astype(np.float64) * self.scale
        wide = wide.T if self.turned else wide
        return wide.reshape(self.groups, len(wide) // self.groups, -1)

    def weight(self, matrix: NDArray[np.float64], like: NDArray[Any]) -> NDArray[Any]:
        """The inverse of ``matrix``: a weight of the shape and type of ``like``."""
        flat = matrix.reshape(-1, matrix.shape[-1]) / self.scale
        return (flat.T if self.turned else flat).reshape(like.shape).astype(like.dtype)

    def rows(self, x: NDArray[Any], picks: Picks) -> NDArray[np.float32]:
        """What the layer multiplies at the picked positions: [groups, positions, features]."""
        if self.window is None:
            flat = (x.T if self.transposed else x)[picks]
            return flat.astype(np.float32, copy=False)[None]
        sizes = x.shape[2:]
        window = self.window
        starts = [
            place * stride - begin
            for place, stride, begin in zip(picks[1:], window.strides, window.begins(sizes), strict=True)
        ]
        taps = []
        for tap in np.ndindex(*window.kernel):
            places = [start + t * d for start, t, d in zip(starts, tap, window.dilations, strict=True)]
            inside = np.logical_and.reduce([(p >= 0) & (p < size) for p, size in zip(places, sizes, strict=True)])
            index = [np.clip(place, 0, size - 1) for place, size in zip(places, sizes, strict=True)]
            taps.append(np.where(inside[:, None], x[(picks[0], slice(None), *index)], 0))
        patches = np.stack(taps, axis=-1).astype(np.float32, copy=False)  # [positions, channels, taps]
        grouped = patches.reshape(len(patches), self.groups, -1)
        return np.ascontiguousarray(grouped.transpose(1, 0, 2))


def form_of(node: ir.Node, layer: LinearLayer) -> Form | None:
    """How the layer of an operator is a matrix; None for what has no such form here (ConvTranspose)."""
    weight = node.inputs[1]
    if weight is None or weight.shape is None:
        return None
    if node.op_type in ("Gemm", "MatMul"):
        transposed = bool(_ints(node, "transA", (0,))[0])
        alpha = node.attributes.get("alpha") if node.op_type == "Gemm" else None
        scale = 1.0 if alpha is None else alpha.as_float()
        return None if scale == 0 else Form(None, 1, layer.unit_axis == 1, transposed, scale)
    if node.op_type != "Conv" or layer.unit_axis != 0:
        return None
    producer = weight.producer()
    while producer is not None:
        if producer.op_type != "Identity" or producer.inputs[0] is None:
            return None
        producer = producer.inputs[0].producer()
    kernel = tuple(weight.shape.numpy()[2:])
    ones, auto_pad = (1,) * len(kernel), node.attributes.get("auto_pad")
    window = Window(
        kernel,
        _ints(node, "strides", ones),
        _ints(node, "dilations", ones),
        _ints(node, "pads", (0,) * (2 * len(kernel))),
        "NOTSET" if auto_pad is None else auto_pad.as_string(),
    )
    return Form(window, _ints(node, "group", (1,))[0])


def pick(shape: tuple[int, ...], channel: int, count: int, rng: np.random.Generator) -> Picks:
    """At most ``count`` positions of a tensor over all axes but ``channel``, drawn without replacement, in order.

    Raises InputError for a tensor of units alone: the model takes one sample without an axis for it.
    """
    if len(shape) < 2:
        raise InputError("a layer's values have no axis besides their units; export the models with a batch axis")
    axis = channel % len(shape)
    sizes = shape[:axis] + shape[axis + 1 :]
    total = int(np.prod(sizes))
    flat = np.arange(total) if total <= count else np.sort(rng.choice(total, count, replace=False))
    return tuple(np.asarray(index, np.int64) for index in np.unravel_index(flat, sizes))


def draw(
    shape: tuple[int, ...], channel: int, count: int, chances: NDArray[np.float64], rng: np.random.Generator
) -> Picks:
    """``count`` positions of a tensor (no more than it has) over all axes but ``channel``, with replacement, in order.

    ``chances`` are those of positions, in the shape of the last of these axes, alike along those before; one from each
    of ``count`` equal shares of them all (stratified resampling).
    """
    axis = channel % len(shape)
    sizes = shape[:axis] + shape[axis + 1 :]
    ends = np.cumsum(np.broadcast_to(chances, sizes))
    count = min(count, ends.size)
    places = (np.arange(count) + rng.random(count)) * (ends[-1] / count) if count else np.zeros(0)
    flat = np.minimum(np.searchsorted(ends, places, side="right"), np.searchsorted(ends, ends[-1]))
    return tuple(np.asarray(index, np.int64) for index in np.unravel_index(flat, sizes))


def values_at(tensor: NDArray[Any], channel: int, picks: Picks) -> NDArray[np.float32]:
    """The channels at the picked positions: [positions, channels]."""
    moved = np.moveaxis(tensor, channel, -1)
    return np.asarray(moved[picks], np.float32)


def _ints(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    attribute = node.attributes.get(name)
    if attribute is None:
        return default
    return (attribute.as_int(),) if attribute.type == ir.AttributeType.INT else tuple(attribute.as_ints())
