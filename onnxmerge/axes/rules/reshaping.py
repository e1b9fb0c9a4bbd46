"""Reshape, Transpose and their kin: the same elements, seen along other axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxmerge.axes.node_context import NodeContext
from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.signature import NEUTRAL, Axes

Group = tuple[list[int], list[int]]
"""Input axes and output axes that hold the same elements."""


def aligned_groups(before: Sequence[int], after: Sequence[int]) -> list[Group]:
    """Smallest runs of axes (sizes above 1) whose products agree; [2, 65, 384] and [2, 65, 3, 4, 32] give three."""
    groups: list[Group] = []
    i = [index for index, size in enumerate(before) if size > 1]
    j = [index for index, size in enumerate(after) if size > 1]
    while i and j:
        left, right = [i.pop(0)], [j.pop(0)]
        a, b = before[left[0]], after[right[0]]
        while a != b:
            if a < b:
                left.append(i.pop(0))
                a *= before[left[-1]]
            else:
                right.append(j.pop(0))
                b *= after[right[-1]]
        groups.append((left, right))
    return groups


def reshape_axes(context: NodeContext, axes: Axes, before: Sequence[int], after: Sequence[int]) -> Axes:
    """The axes of a tensor of shape ``before`` seen as ``after`` (row-major, the same elements)."""
    made = [NEUTRAL] * len(after)
    for left, right in aligned_groups(before, after):
        cells = [axes[index] for index in left]
        if all(cell == NEUTRAL for cell in cells):
            continue
        real = [context.real(cell, before[index]) for cell, index in zip(cells, left, strict=True)]
        alone = len(left) == len(right) == 1
        found = real if alone else context.cells.regroup(real, [after[index] for index in right])
        for index, cell in zip(right, found, strict=True):
            made[index] = cell
    return tuple(context.cells.new(1) if size == 1 else cell for cell, size in zip(made, after, strict=True))


@rule("reshape")
def reshape(context: NodeContext) -> tuple[Axes | None, ...]:
    """Reshape, Flatten, Squeeze, Unsqueeze: any operator that keeps the elements in row-major order."""
    axes, before, after = context.operand(0), context.shape(0), context.output_shape()
    if axes is None or before is None or after is None:
        return context.freeze("a reshape of unknown shape")
    if math.prod(before) != math.prod(after) or 0 in before:
        return context.freeze(f"{list(before)} does not reshape to {list(after)}")
    return (reshape_axes(context, axes, before, after),)


@rule("transpose")
def transpose(context: NodeContext) -> tuple[Axes | None, ...]:
    """Axes in another order."""
    axes = context.operand(0)
    if axes is None:
        return context.freeze("a transpose of unknown shape")
    order = context.attribute("perm")
    return (tuple(axes[index] for index in (order or reversed(range(len(axes))))),)


@rule("expand")
def expand(context: NodeContext) -> tuple[Axes | None, ...]:
    """New positions along a broadcast axis hold the same value: the axis is neutral."""
    axes, before, after = context.operand(0), context.shape(0), context.output_shape()
    if axes is None or before is None or after is None:
        return context.freeze("an expansion of unknown shape")
    offset = len(after) - len(before)
    made = []
    for index, size in enumerate(after):
        source = index - offset
        if source >= 0 and before[source] == size:
            made.append(axes[source])
        else:
            made.append(NEUTRAL)
    return (tuple(made),)


@rule("tile")
def tile(context: NodeContext) -> tuple[Axes | None, ...]:
    """Tile repeats whole axes: (repeat, axis), and the value does not depend on the repeat."""
    axes, before, after = context.operand(0), context.shape(0), context.output_shape()
    if axes is None or before is None or after is None or len(before) != len(after) or 0 in before:
        return context.freeze("a tiling of unknown shape")
    made = []
    for cell, old, new in zip(axes, before, after, strict=True):
        if old == new:
            made.append(cell)
        elif old == 1 or cell == NEUTRAL:
            made.append(NEUTRAL)
        else:
            made.append(context.cells.product([context.cells.new(new // old), cell]))
    return (tuple(made),)


@rule("uniform")
def uniform(context: NodeContext) -> tuple[Axes | None, ...]:
    """ConstantOfShape: one value everywhere, however many there are of it."""
    after = context.output_shape()
    return (None,) if after is None else (tuple(NEUTRAL if size > 1 else context.cells.new(size) for size in after),)


@rule("depth_to_space")
def depth_to_space(context: NodeContext) -> tuple[Axes | None, ...]:
    """DepthToSpace: the channel axis is (b b c) or, in CRD mode, (c b b); only c is free."""
    axes, shape, after = context.operand(0), context.shape(0), context.output_shape()
    if axes is None or shape is None or after is None or len(shape) != 4:
        return context.freeze("DepthToSpace of unknown shape")
    block = int(context.attribute("blocksize"))
    mode = context.attribute("mode", "DCR")
    column_first = (mode.decode() if isinstance(mode, bytes) else mode) == "CRD"
    kept = shape[1] // block**2
    order = [kept, block, block] if column_first else [block, block, kept]
    factors = context.cells.split(context.real(axes[1], shape[1]), order)
    channels = factors.pop(0 if column_first else 2)
    for factor in factors:
        context.cells.fix(factor, "positions inside a block")
    context.fix(axes[2:], "spatial positions")
    spatial = [context.cells.new_fixed(size, "spatial positions") for size in after[2:]]
    return ((axes[0], channels, *spatial),)


@rule("space_to_depth")
def space_to_depth(context: NodeContext) -> tuple[Axes | None, ...]:
    """SpaceToDepth: the output's channel axis is (b b c)."""
    axes, shape, after = context.operand(0), context.shape(0), context.output_shape()
    if axes is None or shape is None or after is None or len(shape) != 4:
        return context.freeze("SpaceToDepth of unknown shape")
    for cell in axes[2:]:
        context.fix([cell], "spatial positions")
    block = int(context.attribute("blocksize"))
    blocks = [context.cells.new_fixed(block, "positions inside a block") for _ in range(2)]
    channels = context.cells.product([*blocks, context.real(axes[1], shape[1])])
    spatial = [context.cells.new_fixed(size, "spatial positions") for size in after[2:]]
    return ((axes[0], channels, *spatial),)


@rule("resize")
def resize(context: NodeContext) -> tuple[Axes | None, ...]:
    """Resize, Upsample, CenterCropPad: axes that keep their size pass; resized ones hold positions."""
    axes, before, after = context.operand(0), context.shape(0), context.output_shape()
    if axes is None or before is None or after is None or len(before) != len(after):
        return context.freeze("a resize of unknown shape")
    scales = context.initial_value(2) if context.node.op_type == "Resize" else None
    if scales is None or scales.size != len(before):
        scales = np.ones(len(before))
    made = []
    for cell, old, new, scale in zip(axes, before, after, scales, strict=True):
        if old == new and scale == 1:
            made.append(cell)
            continue
        context.fix([cell], "interpolated positions")
        made.append(context.cells.new_fixed(new, "interpolated positions"))
    return (tuple(made),)


def as_range(indices: np.ndarray, size: int) -> tuple[int, int] | None:
    """(start, stop) if the indices are consecutive, else None."""
    flat = np.where(indices < 0, indices + size, indices).ravel()
    if flat.size == 0 or not np.array_equal(flat, np.arange(flat[0], flat[0] + flat.size)):
        return None
    return int(flat[0]), int(flat[0]) + int(flat.size)


@rule("columns_to_image")
def columns_to_image(context: NodeContext) -> tuple[Axes | None, ...]:
    """Col2Im: the middle axis is (c block), and blocks are summed at their places."""
    axes, shape, after = context.operand(0), context.shape(0), context.output_shape()
    if axes is None or shape is None or after is None:
        return context.freeze("Col2Im of unknown shape")
    channels, *blocks = context.cells.split(context.real(axes[1], shape[1]), [after[1], shape[1] // after[1]])
    for cell in (*blocks, *axes[2:]):
        context.fix([cell], "positions inside a block")
    return ((axes[0], channels, *(context.cells.new_fixed(size, "spatial positions") for size in after[2:])),)
