"""Bring activations of any size into the first model's coordinates, axis by axis.

A layout has the sizes of the traced sample; a batch of calibration data has others along its own axes. Only axes that
carry free spaces move, and these have one size always.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.axes.layout import AxisBlock, Block, Positions, TensorLayout, Typing
from onnxmerge.errors import StructureError
from onnxmerge.merging.transport import transport


def axis_orders(layout: TensorLayout, typing: Typing, perms: Mapping[str, Positions]) -> dict[int, Positions] | None:
    """For each axis that moves, which source position comes to each target position.

    None where an axis does not move by itself: its order depends on the position along another axis.
    """
    found: dict[int, Positions] = {}
    for axis, size in enumerate(layout.shape):
        parts: list[AxisBlock] = []
        for block in layout.blocks:
            if not any(_equal(block.axes[axis], part) for part in parts):
                parts.append(block.axes[axis])
        names = {name for part in parts for name in part.spaces}
        if not any(name in perms and typing.spaces[name].free for name in names):
            continue
        if sum(part.positions.size for part in parts) != size:
            return None
        alone = TensorLayout(layout.name, (size,), tuple(Block((part,)) for part in parts))
        try:
            found[axis] = transport(np.arange(size), alone, typing.spaces, perms)
        except StructureError:  # an outer space stands on another axis
            return None
    return found


def reordered(tensor: NDArray[Any], orders: Mapping[int, Positions]) -> NDArray[Any]:
    """The tensor with its axes in the order that ``axis_orders`` found."""
    for axis, positions in orders.items():
        tensor = np.take(tensor, positions, axis=axis)
    return tensor


def _equal(one: AxisBlock, other: AxisBlock) -> bool:
    return one.spaces == other.spaces and np.array_equal(one.positions, other.positions)
