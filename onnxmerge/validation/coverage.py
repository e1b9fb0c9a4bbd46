"""How much of a network the typing lets move: a certificate of a network in which nothing moves says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from numpy.typing import NDArray

from onnxmerge.model.arrays import is_floating
from onnxmerge.units.layout import Space, TensorLayout, Typing


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares from 0 to 1, over the float initializers that are not running statistics.

    ``free_axes``: of their axes longer than 1, the share on which at least one free space stands (in any block).
    ``free_elements``: of their elements, the share that lies in a block with a free space on at least one axis.
    Both are 0 where there is nothing to count.
    """

    free_axes: float
    free_elements: float


def coverage(weights: Mapping[str, NDArray[Any]], typing: Typing) -> Coverage:
    """Count free axes and elements of ``weights``, the initializers by name. One without a layout counts as fixed."""
    axes = free_axes = elements = free_elements = 0
    for name in weights:
        array = weights[name]
        if name in typing.statistics or not is_floating(array.dtype):
            continue
        axes += sum(size > 1 for size in array.shape)
        elements += array.size
        layout = typing.initializers.get(name)
        if layout is not None:
            free_axes += _free_axes(layout, typing.spaces)
            free_elements += _free_elements(layout, typing.spaces)
    return Coverage(free_axes / max(axes, 1), free_elements / max(elements, 1))


def moves(layout: TensorLayout, spaces: Mapping[str, Space]) -> bool:
    """Whether a free space with more than one unit stands anywhere in the tensor."""
    return any(_free(name, spaces) for block in layout.blocks for name in block.spaces)


def _free(space: str, spaces: Mapping[str, Space]) -> bool:
    return spaces[space].free and spaces[space].size > 1


def _free_axes(layout: TensorLayout, spaces: Mapping[str, Space]) -> int:
    return sum(
        any(_free(name, spaces) for block in layout.blocks for name in block.axes[axis].spaces)
        for axis, size in enumerate(layout.shape)
        if size > 1
    )


def _free_elements(layout: TensorLayout, spaces: Mapping[str, Space]) -> int:
    return sum(
        prod(axis.positions.size for axis in block.axes)
        for block in layout.blocks
        if any(_free(name, spaces) for name in block.spaces)
    )
