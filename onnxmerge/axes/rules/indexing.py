"""Gather, TopK, ArgMax and others that read positions by number."""

from __future__ import annotations

import numpy as np

from onnxmerge.axes.node_context import NodeContext
from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.rules.reshaping import as_range
from onnxmerge.axes.rules.segments import replace_axis, take_segment
from onnxmerge.axes.signature import NEUTRAL, Axes


@rule("gather", typed=2)
def gather(context: NodeContext) -> tuple[Axes | None, ...]:
    """A constant run of indices is a segment; anything else looks positions up by number and fixes them."""
    axes, shape, index_shape, after = context.operand(0), context.shape(0), context.shape(1), context.output_shape()
    if axes is None or shape is None or index_shape is None or after is None:
        return context.freeze("a gather of unknown shape")
    axis = context.axis(len(shape))
    indices = context.value(1)
    bounds = None if indices is None else as_range(np.asarray(indices), shape[axis])
    if bounds is not None and len(index_shape) <= 1 and not context.takes_a_length(1):
        taken = take_segment(context, axes, axis, *bounds, shape[axis])
        return (taken if index_shape else taken[:axis] + taken[axis + 1 :],)
    repeated = None if indices is None or len(index_shape) != 1 else _repeats(np.asarray(indices), shape[axis])
    if repeated is not None and axes[axis] != NEUTRAL:
        copies = context.cells.new(index_shape[0] // shape[axis])
        factors = [axes[axis], copies] if repeated else [copies, axes[axis]]
        return ((*axes[:axis], context.cells.product(factors), *axes[axis + 1 :]),)
    if indices is not None and not context.takes_a_length(1):
        stepped = _stepped(context, axes[axis], np.asarray(indices), shape[axis])
        if stepped is not None:
            return ((*axes[:axis], *stepped, *axes[axis + 1 :]),)
    context.fix(axes[axis : axis + 1], "looked up by index")
    looked_up = context.operand(1)
    if looked_up is None or indices is not None:
        looked_up = tuple(context.cells.new_fixed(size, "positions of an index") for size in index_shape)
    return ((*axes[:axis], *looked_up, *axes[axis + 1 :]),)


def _stepped(context: NodeContext, cell: int, indices: np.ndarray, size: int) -> Axes | None:
    """The axes of ``tensor[indices]`` where some go through whole factors of the axis in order: windows by index.

    An axis seen as (position, unit) may be looked up with indices [window, tap, unit]: the position is looked up, but
    all units are taken each time, in order, so that they pass. None where no axis of the indices does so.
    """
    if cell == NEUTRAL or indices.size == 0 or indices.ndim < 2:
        return None
    flat = np.where(indices < 0, indices + size, indices)
    steps = sorted(((step, axis) for axis in range(flat.ndim) if (step := _step(flat, axis, size))), reverse=True)
    made = [context.cells.new_fixed(each, "positions of an index") for each in flat.shape]
    sizes, taken, left = [], [], size
    for step, axis in steps:
        if left % (step * flat.shape[axis]) == 0:
            sizes += [left // (step * flat.shape[axis]), flat.shape[axis]]
            taken.append(axis)
            left = step
    if not taken:
        return None
    factors = context.cells.split(cell, [*sizes, left])
    context.fix(factors[::2], "looked up by index")
    for axis, factor in zip(taken, factors[1::2], strict=True):
        made[axis] = factor
    return tuple(made)


def _step(flat: np.ndarray, axis: int, size: int) -> int | None:
    """By how much the indices grow along an axis, if it goes through a factor of what is looked up from end to end.

    All other axes together must add nothing to that factor: no units of it, and no carry.
    """
    count = flat.shape[axis]
    runs = np.moveaxis(flat, axis, -1).reshape(-1, count)
    step = int(runs[0, 1] - runs[0, 0]) if count > 1 else 0
    if step < 1 or size % (step * count) or np.any(runs[:, 0] // step % count):
        return None
    return step if np.array_equal(runs, runs[:, :1] + step * np.arange(count)) else None


def _repeats(indices: np.ndarray, size: int) -> bool | None:
    """Whether every position is repeated in place (0 0 1 1: True) or all of them in turn (0 1 0 1: False)."""
    flat = np.where(indices < 0, indices + size, indices).ravel()
    if size == 0 or flat.size % size or flat.size <= size:
        return None
    every = np.arange(size)
    if np.array_equal(flat, np.repeat(every, flat.size // size)):
        return True
    return False if np.array_equal(flat, np.tile(every, flat.size // size)) else None


@rule("positional")
def positional(context: NodeContext) -> tuple[Axes | None, ...]:
    """TopK, CumSum, ArgMax, Compress: the axis is read in order; the output has positions of its own there."""
    axes, shape = context.operand(0), context.shape(0)
    if axes is None or shape is None:
        return context.freeze("an unknown shape")
    axis = _positional_axis(context, len(shape))
    if axis is None:
        return context.freeze(f"{context.node.op_type} over everything, or over an axis that is not known")
    reason = f"{context.node.op_type} tells the positions of this axis apart"
    context.fix(axes[axis : axis + 1], reason)
    made: list[Axes | None] = []
    for after in context.output_shapes():
        if after is None:
            made.append(None)
        elif len(after) == len(shape):
            made.append(replace_axis(context, axes, axis, context.cells.new_fixed(after[axis], reason), ()))
        else:
            made.append(axes[:axis] + axes[axis + 1 :])
    return tuple(made)


_DEFAULT_AXES = {"ArgMax": 0, "ArgMin": 0, "Compress": None}
_AXIS_INPUTS = {"CumSum": 1, "CumProd": 1}


def _positional_axis(context: NodeContext, rank: int) -> int | None:
    if context.node.op_type in _AXIS_INPUTS:
        found = context.value(_AXIS_INPUTS[context.node.op_type])
        return None if found is None else int(found.ravel()[0]) % rank
    axis = context.attribute("axis", _DEFAULT_AXES.get(context.node.op_type, -1))
    return None if axis is None else int(axis) % rank


@rule("triangle")
def triangle(context: NodeContext) -> tuple[Axes | None, ...]:
    """Trilu masks by row and column number."""
    axes, shape = context.operand(0), context.shape(0)
    if axes is None or shape is None:
        return context.freeze("an unknown shape")
    context.fix(axes[-2:], "masked by row and column")
    return ((*axes[:-2], *(context.cells.new_fixed(size, "masked by row and column") for size in shape[-2:])),)


@rule("reverse_sequence")
def reverse_sequence(context: NodeContext) -> tuple[Axes | None, ...]:
    """ReverseSequence turns the time axis round, in each batch element up to a length of its own."""
    axes, shape = context.operand(0), context.shape(0)
    if axes is None or shape is None:
        return context.freeze("an unknown shape")
    made = list(axes)
    for name, default in (("batch_axis", 1), ("time_axis", 0)):
        axis = context.axis(len(shape), default, name)
        context.fix(axes[axis : axis + 1], "the order of a sequence")
        made[axis] = context.cells.new_fixed(shape[axis], "the order of a sequence")
    return (tuple(made),)


@rule("fourier")
def fourier(context: NodeContext) -> tuple[Axes | None, ...]:
    """DFT: one axis is transformed, and the last one holds real and imaginary parts."""
    axes, shape, after = context.operand(0), context.shape(0), context.output_shape()
    which = context.ints("axis", 2)
    if context.input_name(2) is None and "axis" not in context.node.attributes:
        which = [1] if context.opset < 20 else [-2]
    if axes is None or shape is None or after is None or which is None:
        return context.freeze("a Fourier transform of unknown form")
    made = list(axes)
    for axis in {which[0] % len(shape), len(shape) - 1}:
        context.fix(axes[axis : axis + 1], "a Fourier transform")
        made[axis] = context.cells.new_fixed(after[axis], "a Fourier transform")
    return (tuple(made),)
