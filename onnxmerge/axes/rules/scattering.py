"""Gather and scatter by computed indices: what is indexed is fixed, the axes beside it pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.axes.node_context import NodeContext
from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.signature import NEUTRAL, Axes

_INDEXED = "looked up by index"


def _join(context: NodeContext, cells: Sequence[int]) -> int:
    """Unify the cells of one axis in several operands; uniform operands have no say."""
    real = [cell for cell in cells if cell != NEUTRAL and context.cells.size(cell) > 1]
    for cell in real[1:]:
        context.cells.unify(real[0], cell)
    return real[0] if real else cells[0]


@rule("gather_elements", typed=2)
def gather_elements(context: NodeContext) -> tuple[Axes | None, ...]:
    """GatherElements: the indices carry all other axes; where they cover only a part of one, it is fixed."""
    data, indices, shape, after = context.operand(0), context.operand(1), context.shape(0), context.output_shape()
    if data is None or indices is None or shape is None or after is None:
        return context.freeze("a gather of unknown shape")
    axis = context.axis(len(shape))
    made = []
    for index, size in enumerate(after):
        if index == axis or shape[index] != size:
            context.fix([data[index]], _INDEXED)
            made.append(indices[index])
        else:
            made.append(_join(context, [data[index], indices[index]]))
    return (tuple(made),)


@rule("scatter_elements", typed=3)
def scatter_elements(context: NodeContext) -> tuple[Axes | None, ...]:
    """ScatterElements, Scatter: as GatherElements, with updates beside the indices."""
    operands, shapes = [context.operand(index) for index in range(3)], [context.shape(index) for index in range(3)]
    present = [axes for axes in operands if axes is not None]
    sizes = [shape for shape in shapes if shape is not None]
    if len(present) < 3 or len(sizes) < 3:
        return context.freeze("a scatter of unknown shape")
    axis = context.axis(len(sizes[0]))
    made = []
    for index, size in enumerate(sizes[0]):
        cells = [axes[index] for axes in present]
        if index == axis or sizes[1][index] != size:
            context.fix(cells, _INDEXED)
            made.append(context.cells.new_fixed(size, _INDEXED))
        else:
            made.append(_join(context, cells))
    return (tuple(made),)


@rule("gather_nd", typed=2)
def gather_nd(context: NodeContext) -> tuple[Axes | None, ...]:
    """GatherND: the first axes behind the batch are looked up, the rest passes."""
    data, indices, shape, index_shape = context.operand(0), context.operand(1), context.shape(0), context.shape(1)
    if data is None or indices is None or shape is None or index_shape is None:
        return context.freeze("a gather of unknown shape")
    batch, depth = int(context.attribute("batch_dims", 0)), index_shape[-1]
    whole = {} if batch else _taken_in_order(context.value(1), shape)
    looked_up = range(batch, batch + depth)
    context.fix([*(data[axis] for axis in looked_up if axis not in whole), indices[-1]], _INDEXED)
    shared = [_join(context, pair) for pair in zip(data[:batch], indices[:batch], strict=True)]
    made = list(indices[batch:-1])
    for axis, place in whole.items():
        made[place] = data[axis]
    return ((*shared, *made, *data[batch + depth :]),)


@rule("scatter_nd", typed=3)
def scatter_nd(context: NodeContext) -> tuple[Axes | None, ...]:
    """ScatterND: the first axes are written by index, the rest is shared with the updates."""
    data, indices, updates = context.operand(0), context.operand(1), context.operand(2)
    shape, index_shape = context.shape(0), context.shape(1)
    if data is None or indices is None or updates is None or shape is None or index_shape is None:
        return context.freeze("a scatter of unknown shape")
    depth, leading = index_shape[-1], len(index_shape) - 1
    whole = _taken_in_order(context.value(1), shape)
    context.fix(indices, _INDEXED)
    context.fix([cell for axis, cell in enumerate(data[:depth]) if axis not in whole], _INDEXED)
    context.fix([cell for axis, cell in enumerate(updates[:leading]) if axis not in whole.values()], _INDEXED)
    made = []
    for axis, cell in enumerate(data[:depth]):
        if axis in whole:
            made.append(_join(context, [cell, updates[whole[axis]]]))
        else:
            made.append(context.cells.new_fixed(shape[axis], _INDEXED) if cell == NEUTRAL else cell)
    passed = [_join(context, pair) for pair in zip(data[depth:], updates[leading:], strict=True)]
    return ((*made, *passed),)


def _taken_in_order(indices: NDArray[Any] | None, shape: Sequence[int]) -> dict[int, int]:
    """Axes of the data that one axis of constant indices [..., depth] goes through from end to end, and which.

    Nothing else may depend on that axis of the indices: then whatever is written to or read from elsewhere is so alike
    at each of its positions (an assignment to a slice of the other axes).
    """
    found: dict[int, int] = {}
    if indices is None or indices.size == 0:
        return found
    for axis in range(indices.shape[-1]):
        for place, length in enumerate(indices.shape[:-1]):
            if place in found.values() or length != shape[axis]:
                continue
            along = np.moveaxis(indices, place, 0)
            others = np.delete(along, axis, axis=-1)
            if np.array_equal(others, np.broadcast_to(others[:1], others.shape)) and np.array_equal(
                along[..., axis], np.broadcast_to(_column(length, along.ndim - 1), along.shape[:-1])
            ):
                found[axis] = place
                break
    return found


def _column(length: int, rank: int) -> NDArray[np.int64]:
    """0, 1, 2, ... along the first of ``rank`` axes."""
    return np.arange(length).reshape(length, *[1] * (rank - 1))


@rule("one_hot")
def one_hot(context: NodeContext) -> tuple[Axes | None, ...]:
    """OneHot: the new axis has one position for each value of the index."""
    axes, after = context.operand(0), context.output_shape()
    if axes is None or after is None:
        return context.freeze("an encoding of unknown shape")
    axis = context.axis(len(after), -1)
    return ((*axes[:axis], context.cells.new_fixed(after[axis], "values of an index"), *axes[axis:]),)
