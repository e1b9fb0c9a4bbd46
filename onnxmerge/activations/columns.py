"""Which columns of an activation are the units of a space: a tensor as a [samples, units] matrix.

Axes that carry the space (or an outer space that its permutation varies with) are unit axes; whatever else the tensor
has, batch and positions, counts as samples. Only the sizes of unit axes are fixed by the weights, so only those are
written down: the other axes keep the size that the calibration data gives them, and so does a batch that is folded
into an axis of units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.errors import InputError
from onnxmerge.types import Positions
from onnxmerge.units.layout import AxisBlock, Block, TensorLayout


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor of one axis. ``size`` None: known only at run time. ``unit``: its place in the composite, or None."""

    size: int | None
    unit: int | None


@dataclass(frozen=True, slots=True, eq=False)
class AxisView:
    """One axis: the positions taken (None: all, in order), then split row-major into ``factors``."""

    positions: Positions | None
    factors: tuple[Factor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class UnitColumns:
    """How to read a [samples, units] matrix off an activation.

    ``sizes`` are those of the composite's spaces, outermost first; units are ordered row-major over them.
    ``others`` names the remaining spaces of the region: their positions end up among the samples.
    """

    axes: tuple[AxisView, ...]
    sizes: tuple[int, ...]
    others: frozenset[str]

    @property
    def units(self) -> int:
        return math.prod(self.sizes)


def unit_columns(layout: TensorLayout, composite: Sequence[str]) -> tuple[UnitColumns, ...]:
    """The views of an activation in which the units of ``composite`` (outer spaces first, the space last) stand.

    There is one for each region that holds the units: two where queries and keys lie side by side in a fused
    projection, none where the space is absent or stands on two axes at once. Regions that differ only along sample
    axes (a class token put before the patches) are one view.

    Raises:
        InputError: the space is there, but an outer space that it varies with is not.

    """
    merged: dict[tuple[object, ...], list[Block]] = {}
    for block in layout.blocks:
        spaces = block.spaces
        if composite[-1] not in spaces or any(spaces.count(space) > 1 for space in composite):
            continue
        for outer in composite[:-1]:
            if outer not in spaces:
                raise InputError(
                    f"tensor {layout.name!r}: space {composite[-1]!r} varies with {outer!r}, which is not in this "
                    "tensor; the typing contradicts itself"
                )
        key = tuple(
            (index, axis.spaces, axis.positions.shape, axis.positions.tobytes())
            for index, axis in enumerate(block.axes)
            if _carries(axis, composite)
        )
        merged.setdefault(key, []).append(block)
    return tuple(view for blocks in merged.values() for view in _views(layout, blocks, composite))


def _carries(axis: AxisBlock, composite: Sequence[str]) -> bool:
    return any(space in composite for space in axis.spaces)


def _views(layout: TensorLayout, blocks: Sequence[Block], composite: Sequence[str]) -> Iterator[UnitColumns]:
    """One view of all blocks (they have equal unit axes) if together they cover the sample axes, else one of each."""
    sampled = [index for index, axis in enumerate(blocks[0].axes) if not _carries(axis, composite)]
    covered = sum(math.prod(block.axes[index].positions.size for index in sampled) for block in blocks)
    if covered == math.prod(layout.shape[index] for index in sampled):
        yield _view(layout, blocks, composite, whole=True)
    else:
        for block in blocks:
            yield _view(layout, [block], composite, whole=False)


def _view(layout: TensorLayout, blocks: Sequence[Block], composite: Sequence[str], *, whole: bool) -> UnitColumns:
    sizes: dict[str, int] = {}
    axes: list[AxisView] = []
    for axis, length in zip(blocks[0].axes, layout.shape, strict=True):
        if _carries(axis, composite):
            sizes.update(zip(axis.spaces, axis.positions.shape, strict=True))
            positions = _unless_all(axis.positions.reshape(-1), length)
            axes.append(AxisView(positions, _factors(axis, composite, whole=positions is None)))
        elif whole:
            axes.append(AxisView(None, (Factor(None, None),)))
        else:
            positions = _unless_all(np.sort(axis.positions, axis=None), length)
            axes.append(AxisView(positions, (Factor(None, None),)))
    others = frozenset(space for block in blocks for space in block.spaces) - frozenset(composite)
    return UnitColumns(tuple(axes), tuple(sizes[space] for space in composite), others)


def _factors(axis: AxisBlock, composite: Sequence[str], *, whole: bool) -> tuple[Factor, ...]:
    """The factors of a unit axis, neighbours among the samples as one.

    The first of the samples, where the batch stands that was folded into the axis (batch x heads), is as long as the
    rest of the axis leaves it at run time; not where only some positions are taken, which are those of the trace.
    """
    factors: list[Factor] = []
    for space, size in zip(axis.spaces, axis.positions.shape, strict=True):
        if space in composite:
            factors.append(Factor(size, composite.index(space)))
        elif factors and factors[-1].unit is None:
            factors[-1] = Factor(size * (factors[-1].size or 1), None)
        else:
            factors.append(Factor(size, None))
    free = next((place for place, factor in enumerate(factors) if factor.unit is None), None)
    if whole and free is not None:
        factors[free] = Factor(None, None)
    return tuple(factors)


def _unless_all(positions: Positions, length: int) -> Positions | None:
    """None where the positions are the whole axis in order: nothing is to be gathered then."""
    return None if np.array_equal(positions, np.arange(length)) else positions
