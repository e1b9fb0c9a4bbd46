"""Concat, Split, Slice, Pad: segments of an axis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.signature import NEUTRAL, Axes
from onnxmerge.axes.site import Site
from onnxmerge.axes.structure import Restriction


def take_segment(site: Site, axes: Axes, axis: int, start: int, stop: int, size: int) -> Axes:
    """The axes of ``tensor[..., start:stop, ...]``: the other axes are restricted to the part that is left."""
    if (start, stop) == (0, size) or axes[axis] == NEUTRAL:
        return axes
    part, restrictions = site.cells.cut(axes[axis], start, stop)
    return replace_axis(site, axes, axis, part, restrictions)


def take_a_length(site: Site, axes: Axes, which: Sequence[int]) -> Axes:
    """As many positions of a table as an input is long: they are fixed, and all else is the same at each of them."""
    after = site.output_shape()
    reason = "as many positions as an input is long"
    for axis in which:
        site.fix(axes[axis : axis + 1], reason)
    return tuple(
        site.cells.new_fixed(after[axis], reason) if axis in which and cell != NEUTRAL and after is not None else cell
        for axis, cell in enumerate(axes)
    )


def replace_axis(site: Site, axes: Axes, axis: int, part: int, restrictions: Sequence[Restriction]) -> Axes:
    """``axes`` with another cell at ``axis``, and the rest as it is where only that is left."""
    return tuple(
        part if index == axis else cell if cell == NEUTRAL else site.cells.restrict_all(cell, restrictions)
        for index, cell in enumerate(axes)
    )


@rule("concat", typed=None)
def concat(site: Site) -> tuple[Axes | None, ...]:
    """Segments along one axis; the other axes are the same units in every operand."""
    return concat_axes(site, site.operands(), site.input_shapes())


def concat_axes(
    site: Site, operands: Sequence[Axes | None], shapes: Sequence[tuple[int, ...] | None]
) -> tuple[Axes | None, ...]:
    """The axes of a concatenation of these operands at the node's own axis."""
    after = site.output_shape()
    present = [(axes, shape) for axes, shape in zip(operands, shapes, strict=True) if axes is not None and shape]
    if len(present) != len(operands) or after is None:
        return site.freeze("a concatenation of unknown shapes")
    axis = site.axis(len(after))
    present = [(axes, shape) for axes, shape in present if shape[axis] > 0]
    if len(present) > 1 and len({value.name for value in site.node.inputs if value is not None}) == 1:
        return (_copies(site, present[0][0], axis, len(present)),)
    made: list[int] = []
    for index, size in enumerate(after):
        if index == axis:
            parts = [site.real(axes[index], shape[index]) for axes, shape in present]
            made.append(site.cells.concat(parts) if parts else site.cells.new(size))
            continue
        real = [axes[index] for axes, _ in present if axes[index] != NEUTRAL]
        for cell in real[1:]:
            site.cells.unify(real[0], cell)
        made.append(real[0] if real else NEUTRAL)
    return (tuple(made),)


def _copies(site: Site, axes: Axes, axis: int, count: int) -> Axes:
    """A tensor concatenated with itself is tiled: (copy, axis), the same in every copy."""
    if axes[axis] == NEUTRAL or site.cells.size(axes[axis]) == 1:
        repeated = NEUTRAL
    else:
        repeated = site.cells.product([site.cells.new(count), axes[axis]])
    return (*axes[:axis], repeated, *axes[axis + 1 :])


@rule("split")
def split(site: Site) -> tuple[Axes | None, ...]:
    """Consecutive segments of one axis."""
    axes, shape, outputs = site.operand(0), site.shape(0), site.output_shapes()
    if axes is None or shape is None or any(output is None for output in outputs):
        return site.freeze("a split of unknown shape")
    axis = site.axis(len(shape))
    sizes = [output[axis] for output in outputs if output is not None]
    if site.optional_ints("split", 1, ()) is None:
        reason = "split at positions that depend on the input"
        return tuple(_lose_positions(site, axes, axis, size, reason) for size in sizes)
    starts = [0, *accumulate(sizes)]
    return tuple(
        take_segment(site, axes, axis, start, start + size, shape[axis])
        for start, size in zip(starts, sizes, strict=False)
    )


@rule("slice")
def slice_(site: Site) -> tuple[Axes | None, ...]:
    """Consecutive slices are segments; a step of k over a free axis takes one residue of (n k).

    Along an axis whose bounds depend on the input, positions are fixed; the others pass.
    """
    axes, shape, after = site.operand(0), site.shape(0), site.output_shape()
    starts, ends = site.known_ints("starts", 1), site.known_ints("ends", 2)
    if axes is None or shape is None or after is None or starts is None or ends is None:
        return site.freeze("a slice of unknown bounds")
    which = site.optional_ints("axes", 3, range(len(starts)))
    steps = site.optional_ints("steps", 4, [1] * len(starts))
    if which is None or steps is None:
        return site.freeze("a slice along axes that depend on the input")
    if site.takes_a_length(1, 2):
        return (take_a_length(site, axes, [axis % len(shape) for axis in which]),)
    for start, end, number, step in zip(starts, ends, which, steps, strict=True):
        axis = number % len(shape)
        if start is None or end is None:
            axes = _lose_positions(site, axes, axis, after[axis], "bounds that depend on the input")
        else:
            axes = _slice_axis(site, axes, axis, slice(start, end, step), shape[axis])
    return (axes,)


def _lose_positions(site: Site, axes: Axes, axis: int, length: int, reason: str) -> Axes:
    """The axes of what is left when an axis is read by position: fixed, and fixed ones of its own in the result."""
    if axes[axis] == NEUTRAL:
        return axes
    site.cells.fix(axes[axis], reason)
    return replace_axis(site, axes, axis, site.cells.new_fixed(length, reason), ())


def _slice_axis(site: Site, axes: Axes, axis: int, bounds: slice, size: int) -> Axes:
    start, stop, step = bounds.indices(size)
    length = len(range(start, stop, step))
    if axes[axis] == NEUTRAL or length == 0:
        return axes
    if step == 1:
        return take_segment(site, axes, axis, start, stop, size)
    if step > 1 and size % step == 0 and start < step and length == size // step and not site.cells.fixed(axes[axis]):
        outer, inner = site.cells.split(axes[axis], [length, step])
        _, restrictions = site.cells.cut(inner, start, start + 1)
        kept = site.cells.restrict_all(outer, restrictions)
        return replace_axis(site, axes, axis, kept, restrictions)
    return _lose_positions(site, axes, axis, length, f"positions are taken with step {step}")


@rule("pad")
def pad(site: Site) -> tuple[Axes | None, ...]:
    """Constant padding is a segment of equal values beside the units; other modes read positions.

    Widths are looked at axis by axis: one that is always zero leaves its axis alone, whatever the others depend on.
    """
    axes, shape, after = site.operand(0), site.shape(0), site.output_shape()
    if axes is None or shape is None or after is None:
        return site.freeze("a padding of unknown shape")
    which, pads = site.optional_ints("axes", 3, range(len(shape))), site.known_ints(_pads_attribute(site), 1)
    if which is None or pads is None or len(pads) != 2 * len(which):
        return site.freeze("a padding along axes that depend on the input")
    constant = site.text("mode", "constant") == "constant"
    made = list(axes)
    for number, low, high in zip(which, pads[: len(which)], pads[len(which) :], strict=True):
        axis = number % len(shape)
        if low == high == 0:
            continue
        cell = site.real(axes[axis], shape[axis])
        reason = "padded positions"
        if low is None or high is None:
            reason = "padded by a width that depends on the input"
        elif constant and min(low, high) >= 0 and not site.cells.fixed(cell):
            parts = [site.cells.new(low), cell, site.cells.new(high)]
            made[axis] = site.cells.concat([part for part in parts if site.cells.size(part)])
            continue
        site.cells.fix(cell, reason)
        made[axis] = site.cells.new_fixed(after[axis], reason)
    return (tuple(made),)


def _pads_attribute(site: Site) -> str:
    return "paddings" if site.opset < _PADS_OPSET else "pads"


_PADS_OPSET = 2
"""Before that the attribute had another name."""
