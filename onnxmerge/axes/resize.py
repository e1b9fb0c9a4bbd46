"""The typing of the same graph with groups of another size.

Only groups that stand alone on whole axes can be given one (``plain_spaces``): there the new units stand in a row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from onnxmerge.axes.layout import AxisBlock, Block, Space, TensorLayout, Typing

Widths: TypeAlias = Mapping[str, int]
"""Space id -> how many units it has instead of its own number; a space that is absent keeps its size."""


def plain_spaces(typing: Typing) -> list[str]:
    """The free spaces that stand alone on whole axes everywhere, that depend on none and on which none depends."""
    outer = {name for space in typing.spaces.values() for name in space.varies_with}
    plain = {
        name: None
        for name, space in typing.spaces.items()
        if space.free and space.size > 1 and not space.varies_with and name not in outer
    }
    for layout in (*typing.initializers.values(), *typing.activations.values()):
        for name in _not_plain(layout):
            plain.pop(name, None)
    return list(plain)


def _not_plain(layout: TensorLayout) -> Iterable[str]:
    """The spaces of a tensor that share an axis with others, or do not stand on it in plain order."""
    for index, size in enumerate(layout.shape):
        axes = [block.axes[index] for block in layout.blocks]
        names = {name for axis in axes for name in axis.spaces}
        whole = all(np.array_equal(axis.positions, np.arange(size)) for axis in axes)
        if len(names) > 1 or not whole:
            yield from names


def axes_of(layout: TensorLayout, spaces: Collection[str]) -> dict[int, str]:
    """The axes of a tensor that one of these plain spaces stands on, with it."""
    block = layout.blocks[0] if layout.blocks else None
    axes = block.axes if block is not None else ()
    return {index: axis.spaces[0] for index, axis in enumerate(axes) if {*axis.spaces} & {*spaces}}


def resized_spaces(spaces: Mapping[str, Space], widths: Widths) -> Mapping[str, Space]:
    """The spaces at their new widths."""
    if not widths:
        return spaces
    return {name: replace(space, size=widths.get(name, space.size)) for name, space in spaces.items()}


def resized_layout(layout: TensorLayout, widths: Widths) -> TensorLayout:
    """The layout of a tensor whose plain spaces have their new widths."""
    found = axes_of(layout, widths) if widths else {}
    if not found:
        return layout
    rows = {axis: AxisBlock((space,), np.arange(widths[space])) for axis, space in found.items()}
    blocks = tuple(Block(tuple(rows.get(index, axis) for index, axis in enumerate(b.axes))) for b in layout.blocks)
    shape = tuple(widths[found[axis]] if axis in found else size for axis, size in enumerate(layout.shape))
    return TensorLayout(layout.name, shape, blocks)


def resized_typing(typing: Typing, widths: Widths) -> Typing:
    """The typing of the graph whose plain spaces have their new widths."""
    if not widths:
        return typing
    return replace(
        typing,
        spaces=resized_spaces(typing.spaces, widths),
        initializers={name: resized_layout(layout, widths) for name, layout in typing.initializers.items()},
        activations={name: resized_layout(layout, widths) for name, layout in typing.activations.items()},
    )
