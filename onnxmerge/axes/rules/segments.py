"""Concat, Split, Slice, Pad: segments of an axis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from onnxmerge.axes.node_context import NodeContext
from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.signature import NEUTRAL, Axes
from onnxmerge.axes.structure import Restriction


def take_segment(context: NodeContext, axes: Axes, axis: int, start: int, stop: int, size: int) -> Axes:
    """The axes of ``tensor[..., start:stop, ...]``: the other axes are restricted to the part that is left."""
    if (start, stop) == (0, size) or axes[axis] == NEUTRAL:
        return axes
    part, restrictions = context.cells.cut(axes[axis], start, stop)
    return replace_axis(context, axes, axis, part, restrictions)


def take_a_length(context: NodeContext, axes: Axes, which: Sequence[int]) -> Axes:
    """As many positions of a table as an input is long: they are fixed, and all else is the same at each of them."""
    after = context.output_shape()
    reason = "as many positions as an input is long"
    for axis in which:
        context.fix(axes[axis : axis + 1], reason)
    return tuple(
        context.cells.new_fixed(after[axis], reason)
        if axis in which and cell != NEUTRAL and after is not None
        else cell
        for axis, cell in enumerate(axes)
    )


def replace_axis(context: NodeContext, axes: Axes, axis: int, part: int, restrictions: Sequence[Restriction]) -> Axes:
    """``axes`` with another cell at ``axis``, and the rest as it is where only that is left."""
    return tuple(
        part if index == axis else cell if cell == NEUTRAL else context.cells.restrict_all(cell, restrictions)
        for index, cell in enumerate(axes)
    )


@rule("concat", typed=None)
def concat(context: NodeContext) -> tuple[Axes | None, ...]:
    """Segments along one axis; the other axes are the same units in every operand."""
    return concat_axes(context, context.operands(), context.input_shapes())


def concat_axes(
    context: NodeContext, operands: Sequence[Axes | None], shapes: Sequence[tuple[int, ...] | None]
) -> tuple[Axes | None, ...]:
    """The axes of a concatenation of these operands at the node's own axis."""
    after = context.output_shape()
    present = [(axes, shape) for axes, shape in zip(operands, shapes, strict=True) if axes is not None and shape]
    if len(present) != len(operands) or after is None:
        return context.freeze("a concatenation of unknown shapes")
    axis = context.axis(len(after))
    present = [(axes, shape) for axes, shape in present if shape[axis] > 0]
    if len(present) > 1 and len({value.name for value in context.node.inputs if value is not None}) == 1:
        return (_copies(context, present[0][0], axis, len(present)),)
    made: list[int] = []
    for index, size in enumerate(after):
        if index == axis:
            parts = [context.real(axes[index], shape[index]) for axes, shape in present]
            made.append(context.cells.concat(parts) if parts else context.cells.new(size))
            continue
        real = [axes[index] for axes, _ in present if axes[index] != NEUTRAL]
        for cell in real[1:]:
            context.cells.unify(real[0], cell)
        made.append(real[0] if real else NEUTRAL)
    return (tuple(made),)


def _copies(context: NodeContext, axes: Axes, axis: int, count: int) -> Axes:
    """A tensor concatenated with itself is tiled: (copy, axis), the same in every copy."""
    if axes[axis] == NEUTRAL or context.cells.size(axes[axis]) == 1:
        repeated = NEUTRAL
    else:
        repeated = context.cells.product([context.cells.new(count), axes[axis]])
    return (*axes[:axis], repeated, *axes[axis + 1 :])


@rule("split")
def split(context: NodeContext) -> tuple[Axes | None, ...]:
    """Consecutive segments of one axis."""
    axes, shape, outputs = context.operand(0), context.shape(0), context.output_shapes()
    if axes is None or shape is None or any(output is None for output in outputs):
        return context.freeze("a split of unknown shape")
    axis = context.axis(len(shape))
    sizes = [output[axis] for output in outputs if output is not None]
    if context.optional_ints("split", 1, ()) is None:
        reason = "split at positions that depend on the input"
        return tuple(_lose_positions(context, axes, axis, size, reason) for size in sizes)
    starts = [0, *accumulate(sizes)]
    return tuple(
        take_segment(context, axes, axis, start, start + size, shape[axis])
        for start, size in zip(starts, sizes, strict=False)
    )


@rule("slice")
def slice_(context: NodeContext) -> tuple[Axes | None, ...]:
    """Consecutive slices are segments; a step of k over a free axis takes one residue of (n k).

    Along an axis whose bounds depend on the input, positions are fixed; the others pass.
    """
    axes, shape, after = context.operand(0), context.shape(0), context.output_shape()
    starts, ends = context.known_ints("starts", 1), context.known_ints("ends", 2)
    if axes is None or shape is None or after is None or starts is None or ends is None:
        return context.freeze("a slice of unknown bounds")
    which = context.optional_ints("axes", 3, range(len(starts)))
    steps = context.optional_ints("steps", 4, [1] * len(starts))
    if which is None or steps is None:
        return context.freeze("a slice along axes that depend on the input")
    if context.takes_a_length(1, 2):
        return (take_a_length(context, axes, [axis % len(shape) for axis in which]),)
    for start, end, number, step in zip(starts, ends, which, steps, strict=True):
        axis = number % len(shape)
        if start is None or end is None:
            axes = _lose_positions(context, axes, axis, after[axis], "bounds that depend on the input")
        else:
            axes = _slice_axis(context, axes, axis, slice(start, end, step), shape[axis])
    return (axes,)


def _lose_positions(context: NodeContext, axes: Axes, axis: int, length: int, reason: str) -> Axes:
    """The axes of what is left when an axis is read by position: fixed, and fixed ones of its own in the result."""
    if axes[axis] == NEUTRAL:
        return axes
    context.cells.fix(axes[axis], reason)
    return replace_axis(context, axes, axis, context.cells.new_fixed(length, reason), ())


def _slice_axis(context: NodeContext, axes: Axes, axis: int, bounds: slice, size: int) -> Axes:
    start, stop, step = bounds.indices(size)
    length = len(range(start, stop, step))
    if axes[axis] == NEUTRAL or length == 0:
        return axes
    if step == 1:
        return take_segment(context, axes, axis, start, stop, size)
    if (
        step > 1
        and size % step == 0
        and start < step
        and length == size // step
        and not context.cells.fixed(axes[axis])
    ):
        outer, inner = context.cells.split(axes[axis], [length, step])
        _, restrictions = context.cells.cut(inner, start, start + 1)
        kept = context.cells.restrict_all(outer, restrictions)
        return replace_axis(context, axes, axis, kept, restrictions)
    return _lose_positions(context, axes, axis, length, f"positions are taken with step {step}")


@rule("pad")
def pad(context: NodeContext) -> tuple[Axes | None, ...]:
    """Constant padding is a segment of equal values beside the units; other modes read positions.

    Widths are looked at axis by axis: one that is always zero leaves its axis alone, whatever the others depend on.
    """
    axes, shape, after = context.operand(0), context.shape(0), context.output_shape()
    if axes is None or shape is None or after is None:
        return context.freeze("a padding of unknown shape")
    which, pads = context.optional_ints("axes", 3, range(len(shape))), context.known_ints(_pads_attribute(context), 1)
    if which is None or pads is None or len(pads) != 2 * len(which):
        return context.freeze("a padding along axes that depend on the input")
    constant = context.text("mode", "constant") == "constant"
    made = list(axes)
    for number, low, high in zip(which, pads[: len(which)], pads[len(which) :], strict=True):
        axis = number % len(shape)
        if low == high == 0:
            continue
        cell = context.real(axes[axis], shape[axis])
        reason = "padded positions"
        if low is None or high is None:
            reason = "padded by a width that depends on the input"
        elif constant and min(low, high) >= 0 and not context.cells.fixed(cell):
            parts = [context.cells.new(low), cell, context.cells.new(high)]
            made[axis] = context.cells.concat([part for part in parts if context.cells.size(part)])
            continue
        context.cells.fix(cell, reason)
        made[axis] = context.cells.new_fixed(after[axis], reason)
    return (tuple(made),)


def _pads_attribute(context: NodeContext) -> str:
    return "paddings" if context.opset < _PADS_OPSET else "pads"


_PADS_OPSET = 2
"""Before that the attribute had another name."""
