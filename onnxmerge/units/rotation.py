"""Rotate the units of spaces that allow it, in every weight that carries them.

The rotations of a space are float64 [*sizes of ``varies_with``, size, size], ``R[o1, ..., u', u]``: unit u' becomes the
sum over u of R[..., u', u] times unit u, in every weight that carries the space, on the giving and on the reading side
alike: R is orthogonal. Its outer units (heads) keep their places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.types import Arrays, Floats, Positions
from onnxmerge.units.layout import Block, Space, TensorLayout, Typing
from onnxmerge.units.permutations import Slot, bind, composite_shape, composite_sources
from onnxmerge.units.zips import slot_sizes, slots_of

Rotations: TypeAlias = Mapping[str, Floats]


def rotated(weights: Arrays, typing: Typing, rotations: Rotations) -> LazyWeights:
    """``weights`` with the spaces of ``rotations`` rotated, each tensor when it is read and in its own type."""
    moving = {name for name, layout in typing.initializers.items() if rotations.keys() & _spaces(layout)}

    def turned(name: str) -> NDArray[Any]:
        if name not in moving:
            return weights[name]
        return rotate(weights[name], typing.initializers[name], typing.spaces, rotations)

    return LazyWeights(weights, turned)


def rotate(
    array: NDArray[Any], layout: TensorLayout, spaces: Mapping[str, Space], rotations: Rotations
) -> NDArray[Any]:
    """One tensor with its units rotated. Raises StructureError where the outer unit of one cannot be told."""
    out = array.astype(np.float64)
    for space, rotation in rotations.items():
        for block, slot in places(layout, space):
            region, chain, sizes = _region(block), _chain(layout, block, slot, spaces), slot_sizes(block, spaces)
            content = out[region].reshape(sizes)
            front = np.moveaxis(content, chain, range(len(chain)))
            flat = front.reshape(*front.shape[: len(chain)], -1)
            turned = (rotation @ flat).reshape(front.shape)
            out[region] = np.moveaxis(turned, range(len(chain)), chain).reshape(out[region].shape)
    return out.astype(array.dtype)


def random_rotations(spaces: Mapping[str, Space], names: Sequence[str], seed: int) -> dict[str, Floats]:
    """A random orthogonal matrix for each outer unit of each of the spaces ``names``."""
    rng = np.random.default_rng(seed)
    shapes = {name: composite_shape(name, spaces) for name in names}
    return {name: np.linalg.qr(rng.standard_normal((*shape, shape[-1])))[0] for name, shape in shapes.items()}


def in_own_units(
    rotations: Rotations, spaces: Mapping[str, Space], perms: Mapping[str, Positions]
) -> dict[str, Floats]:
    """Rotations of a model that ``perms`` have brought to another, as rotations of the model before that."""
    found = {}
    for name, rotation in rotations.items():
        sources = composite_sources(name, spaces, perms)
        shape = composite_shape(name, spaces)
        outer = [np.broadcast_to(each, shape) for each in sources]
        own = np.empty_like(rotation)
        index = (*(each[..., :, None] for each in outer[:-1]), outer[-1][..., :, None], outer[-1][..., None, :])
        own[index] = rotation
        found[name] = own
    return found


def places(layout: TensorLayout, space: str) -> Iterator[tuple[Block, Slot]]:
    """Where a tensor carries the space."""
    for block in layout.blocks:
        for axis, place in slots_of(block):
            if block.axes[axis].spaces[place] == space:
                yield block, (axis, place)


def units_of(
    array: NDArray[Any], layout: TensorLayout, block: Block, slot: Slot, spaces: Mapping[str, Space]
) -> Floats:
    """The weights of each unit [*outer, size, features]."""
    content = array[_region(block)].astype(np.float64).reshape(slot_sizes(block, spaces))
    chain = _chain(layout, block, slot, spaces)
    front = np.moveaxis(content, chain, range(len(chain)))
    return front.reshape(*front.shape[: len(chain)], -1)


def _spaces(layout: TensorLayout) -> set[str]:
    return {name for block in layout.blocks for name in block.spaces}


def _region(block: Block) -> tuple[Positions, ...]:
    return np.ix_(*(axis.positions.reshape(-1) for axis in block.axes))


def _chain(layout: TensorLayout, block: Block, slot: Slot, spaces: Mapping[str, Space]) -> list[int]:
    """The dimensions of the outer units and of the units themselves, in a block with one for each slot."""
    every = slots_of(block)
    return [every.index(each) for each in (*bind(layout.name, block, slot, spaces), slot)]
