"""The typing of the same graph with groups of another size.

A group stands on an axis in *loops*: one stretch of positions after another, all of one length, each of them one unit's
(a channel; the 64 positions of a head; a head's query, key and value side by side). With another number of units a
loop has as many stretches as there are units now, and what stands behind it moves on. Only groups that stand in loops
wherever they stand, and inside of no other group, can be given another size (``resizable_spaces``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from onnxmerge.errors import StructureError
from onnxmerge.types import Positions
from onnxmerge.units.layout import AxisBlock, Block, Space, TensorLayout, Typing

Widths: TypeAlias = Mapping[str, int]
"""Space id -> how many units it has instead of its own number; a space that is absent keeps its size."""


@dataclass(frozen=True, slots=True)
class _Loop:
    """``count`` stretches of ``length`` positions from ``start`` on."""

    start: int
    length: int
    count: int

    @property
    def stop(self) -> int:
        return self.start + self.length * self.count


def resizable_spaces(typing: Typing) -> list[str]:
    """The free spaces that stand in loops on every axis they are on, and inside of no other space."""
    found = {
        name: None for name, space in typing.spaces.items() if space.free and space.size > 1 and not space.varies_with
    }
    for layout in (*typing.initializers.values(), *typing.activations.values()):
        for axis in range(len(layout.shape)):
            parts = _parts(layout, axis)
            for name in {name for part in parts for name in part.spaces} & found.keys():
                if _loops(parts, name) is None:
                    del found[name]
    return list(found)


def resized_axes(layout: TensorLayout, widths: Iterable[str]) -> list[int]:
    """The axes of a tensor on which one of these spaces stands."""
    names = {*widths}
    return [
        axis for axis in range(len(layout.shape)) if any(names & {*block.axes[axis].spaces} for block in layout.blocks)
    ]


def resized_spaces(spaces: Mapping[str, Space], widths: Widths) -> Mapping[str, Space]:
    """The spaces at their new widths."""
    if not widths:
        return spaces
    return {name: replace(space, size=widths.get(name, space.size)) for name, space in spaces.items()}


def resized_layout(layout: TensorLayout, widths: Widths) -> TensorLayout:
    """The layout of a tensor whose resizable spaces have their new widths."""
    axes = resized_axes(layout, widths) if widths else []
    if not axes:
        return layout
    blocks, shape = [list(block.axes) for block in layout.blocks], list(layout.shape)
    for axis in axes:
        parts, shape[axis] = _resized(_parts(layout, axis), layout.shape[axis], widths)
        for own, part in zip(blocks, parts, strict=True):
            own[axis] = part
    return TensorLayout(layout.name, tuple(shape), tuple(Block(tuple(own)) for own in blocks))


def resized_bound(layout: TensorLayout, axis: int, widths: Widths, bound: int) -> int:
    """Where a boundary between two positions of an axis (0: before the first) lies at the new widths."""
    parts, found = _parts(layout, axis), np.array(bound)
    for name in sorted({name for part in parts for name in part.spaces} & widths.keys()):
        loops = _loops(parts, name) or []
        parts = [_stretched(part, name, loops, widths[name]) for part in parts]
        found = _moved(found, loops, widths[name])
    return int(found)


def resized_orders(
    layout: TensorLayout, spaces: Mapping[str, Space], widths: Widths, labels: Mapping[str, Positions]
) -> dict[int, Positions] | None:
    """For each resized axis, at which new position each of the old ones comes to stand, unit by unit as ``labels`` say.

    None where a space on such an axis moves with one that stands on another axis.
    """
    found: dict[int, Positions] = {}
    if not widths:
        return found
    wide = resized_layout(layout, widths)
    for axis in resized_axes(layout, widths):
        found[axis] = np.arange(layout.shape[axis])
        for old, new in zip(_parts(layout, axis), _parts(wide, axis), strict=True):
            units = _labelled(old, spaces, labels)
            if units is None:
                return None
            found[axis][old.positions] = new.positions[units]
    return found


def _labelled(
    part: AxisBlock, spaces: Mapping[str, Space], labels: Mapping[str, Positions]
) -> tuple[Positions, ...] | None:
    """Which unit each unit of the axis becomes, slot by slot; None where an outer space stands elsewhere."""
    grid = dict(zip(part.spaces, np.ix_(*(np.arange(size) for size in part.positions.shape)), strict=True))
    found = []
    for name in part.spaces:
        if name not in labels or not spaces[name].free:
            found.append(grid[name])
            continue
        if not grid.keys() >= {*spaces[name].varies_with}:
            return None
        found.append(labels[name][tuple(grid[each] for each in (*spaces[name].varies_with, name))])
    return tuple(found)


def _parts(layout: TensorLayout, axis: int) -> list[AxisBlock]:
    return [block.axes[axis] for block in layout.blocks]


def _resized(parts: Sequence[AxisBlock], size: int, widths: Widths) -> tuple[list[AxisBlock], int]:
    """The parts of one axis, and its size, with one space after the other at its new width."""
    for name in sorted({name for part in parts for name in part.spaces} & widths.keys()):
        loops = _loops(parts, name)
        if loops is None:
            raise StructureError(f"space {name} does not stand in loops; it has no other width")
        parts = [_stretched(part, name, loops, widths[name]) for part in parts]
        size = int(_moved(np.array(size), loops, widths[name]))
    return list(parts), size


def _stretched(part: AxisBlock, name: str, loops: Sequence[_Loop], width: int) -> AxisBlock:
    """One part of an axis at the new width of a space: where it stands there, its stretches follow the first."""
    if name not in part.spaces:
        return AxisBlock(part.spaces, _moved(part.positions, loops, width))
    place = part.spaces.index(name)
    first, second = (part.positions.take([unit], axis=place) for unit in (0, 1))
    units = np.arange(width).reshape([-1 if axis == place else 1 for axis in range(len(part.spaces))])
    return AxisBlock(part.spaces, _moved(first, loops, width) + units * (second - first))


def _moved(positions: Positions, loops: Sequence[_Loop], width: int) -> Positions:
    """Positions in no loop, or in the first stretch of one, behind loops that now have ``width`` stretches each."""
    return positions + sum(np.where(positions >= loop.stop, (width - loop.count) * loop.length, 0) for loop in loops)


def _loops(parts: Sequence[AxisBlock], name: str) -> list[_Loop] | None:
    """The loops in which a space stands on an axis; None where it does not stand in loops alone."""
    if any(part.spaces.count(name) > 1 for part in parts):
        return None
    runs = sorted({run for part in parts if name in part.spaces for run in _runs(part, name)})
    found: list[_Loop] = []
    covered: list[set[int]] = []
    for first, length, count, body in runs:
        if length <= 0:
            return None
        if not found or first >= found[-1].stop:
            found.append(_Loop(first, length, count))
            covered.append(set())
        loop = found[-1]
        inside = {position - loop.start for position in body}
        if (length, count) != (loop.length, loop.count) or max(inside) >= length or inside & covered[-1]:
            return None
        covered[-1] |= inside
    whole = all(len(each) == loop.length for each, loop in zip(covered, found, strict=True))
    others = [part.positions for part in parts if name not in part.spaces]
    apart = not any(np.any((own >= loop.start) & (own < loop.stop)) for own in others for loop in found)
    return found if whole and apart else None


def _runs(part: AxisBlock, name: str) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
    """Each run of a space's units on an axis, as (first position, step, units, positions of the first unit)."""
    place = part.spaces.index(name)
    count = part.positions.shape[place]
    outer = math.prod(part.positions.shape[:place])
    for run in part.positions.reshape(outer, count, -1):
        steps = np.diff(run, axis=0)
        even = steps.size > 0 and bool(np.all(steps == steps.flat[0]))
        yield int(run.min()), int(steps.flat[0]) if even else 0, count, tuple(run[0].tolist())
