"""Reshape, Transpose and their kin: the same elements, seen along other axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.signature import NEUTRAL, Axes
from onnxmerge.axes.site import Site

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


def reshape_axes(site: Site, axes: Axes, before: Sequence[int], after: Sequence[int]) -> Axes:
    """The axes of a tensor of shape ``before`` seen as ``after`` (row-major, the same elements)."""
    made = [NEUTRAL] * len(after)
    for left, right in aligned_groups(before, after):
        cells = [axes[index] for index in left]
        if all(cell == NEUTRAL for cell in cells):
            continue
        real = [site.real(cell, before[index]) for cell, index in zip(cells, left, strict=True)]
        alone = len(left) == len(right) == 1
        found = real if alone else site.cells.regroup(real, [after[index] for index in right])
        for index, cell in zip(right, found, strict=True):
            made[index] = cell
    return tuple(site.cells.new(1) if size == 1 else cell for cell, size in zip(made, after, strict=True))


@rule("reshape")
def reshape(site: Site) -> tuple[Axes | None, ...]:
    """Reshape, Flatten, Squeeze, Unsqueeze: any operator that keeps the elements in row-major order."""
    axes, before, after = site.operand(0), site.shape(0), site.output_shape()
    if axes is None or before is None or after is None:
        return site.freeze("a reshape of unknown shape")
    if math.prod(before) != math.prod(after) or 0 in before:
        return site.freeze(f"{list(before)} does not reshape to {list(after)}")
    return (reshape_axes(site, axes, before, after),)


@rule("transpose")
def transpose(site: Site) -> tuple[Axes | None, ...]:
    """Axes in another order."""
    axes = site.operand(0)
    if axes is None:
        return site.freeze("a transpose of unknown shape")
    order = site.attribute("perm")
    return (tuple(axes[index] for index in (order or reversed(range(len(axes))))),)


@rule("expand")
def expand(site: Site) -> tuple[Axes | None, ...]:
    """New positions along a broadcast axis hold the same value: the axis is neutral."""
    axes, before, after = site.operand(0), site.shape(0), site.output_shape()
    if axes is None or before is None or after is None:
        return site.freeze("an expansion of unknown shape")
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
def tile(site: Site) -> tuple[Axes | None, ...]:
    """Tile repeats whole axes: (repeat, axis), and the value does not depend on the repeat."""
    axes, before, after = site.operand(0), site.shape(0), site.output_shape()
    if axes is None or before is None or after is None or len(before) != len(after) or 0 in before:
        return site.freeze("a tiling of unknown shape")
    made = []
    for cell, old, new in zip(axes, before, after, strict=True):
        if old == new:
            made.append(cell)
        elif old == 1 or cell == NEUTRAL:
            made.append(NEUTRAL)
        else:
            made.append(site.cells.product([site.cells.new(new // old), cell]))
    return (tuple(made),)


@rule("uniform")
def uniform(site: Site) -> tuple[Axes | None, ...]:
    """ConstantOfShape: one value everywhere, however many there are of it."""
    after = site.output_shape()
    return (None,) if after is None else (tuple(NEUTRAL if size > 1 else site.cells.new(size) for size in after),)


@rule("depth_to_space")
def depth_to_space(site: Site) -> tuple[Axes | None, ...]:
    """DepthToSpace: the channel axis is (b b c) or, in CRD mode, (c b b); only c is free."""
    axes, shape, after = site.operand(0), site.shape(0), site.output_shape()
    if axes is None or shape is None or after is None or len(shape) != 4:
        return site.freeze("DepthToSpace of unknown shape")
    block = int(site.attribute("blocksize"))
    mode = site.attribute("mode", "DCR")
    column_first = (mode.decode() if isinstance(mode, bytes) else mode) == "CRD"
    kept = shape[1] // block**2
    order = [kept, block, block] if column_first else [block, block, kept]
    factors = site.cells.split(site.real(axes[1], shape[1]), order)
    channels = factors.pop(0 if column_first else 2)
    for factor in factors:
        site.cells.fix(factor, "positions inside a block")
    site.fix(axes[2:], "spatial positions")
    spatial = [site.cells.new_fixed(size, "spatial positions") for size in after[2:]]
    return ((axes[0], channels, *spatial),)


@rule("space_to_depth")
def space_to_depth(site: Site) -> tuple[Axes | None, ...]:
    """SpaceToDepth: the output's channel axis is (b b c)."""
    axes, shape, after = site.operand(0), site.shape(0), site.output_shape()
    if axes is None or shape is None or after is None or len(shape) != 4:
        return site.freeze("SpaceToDepth of unknown shape")
    for cell in axes[2:]:
        site.fix([cell], "spatial positions")
    block = int(site.attribute("blocksize"))
    blocks = [site.cells.new_fixed(block, "positions inside a block") for _ in range(2)]
    channels = site.cells.product([*blocks, site.real(axes[1], shape[1])])
    spatial = [site.cells.new_fixed(size, "spatial positions") for size in after[2:]]
    return ((axes[0], channels, *spatial),)


@rule("resize")
def resize(site: Site) -> tuple[Axes | None, ...]:
    """Resize, Upsample, CenterCropPad: axes that keep their size pass; resized ones hold positions."""
    axes, before, after = site.operand(0), site.shape(0), site.output_shape()
    if axes is None or before is None or after is None or len(before) != len(after):
        return site.freeze("a resize of unknown shape")
    scales = site.initial_value(2) if site.node.op_type == "Resize" else None
    if scales is None or scales.size != len(before):
        scales = np.ones(len(before))
    made = []
    for cell, old, new, scale in zip(axes, before, after, scales, strict=True):
        if old == new and scale == 1:
            made.append(cell)
            continue
        site.fix([cell], "interpolated positions")
        made.append(site.cells.new_fixed(new, "interpolated positions"))
    return (tuple(made),)


def as_range(indices: np.ndarray, size: int) -> tuple[int, int] | None:
    """(start, stop) if the indices are consecutive, else None."""
    flat = np.where(indices < 0, indices + size, indices).ravel()
    if flat.size == 0 or not np.array_equal(flat, np.arange(flat[0], flat[0] + flat.size)):
        return None
    return int(flat[0]), int(flat[0]) + int(flat.size)


@rule("columns_to_image")
def columns_to_image(site: Site) -> tuple[Axes | None, ...]:
    """Col2Im: the middle axis is (c block), and blocks are summed at their places."""
    axes, shape, after = site.operand(0), site.shape(0), site.output_shape()
    if axes is None or shape is None or after is None:
        return site.freeze("Col2Im of unknown shape")
    channels, *blocks = site.cells.split(site.real(axes[1], shape[1]), [after[1], shape[1] // after[1]])
    for cell in (*blocks, *axes[2:]):
        site.fix([cell], "positions inside a block")
    return ((axes[0], channels, *(site.cells.new_fixed(size, "spatial positions") for size in after[2:])),)
