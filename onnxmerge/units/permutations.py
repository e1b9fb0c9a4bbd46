"""Carry tensors along a matching: permutations of spaces become permutations of every tensor they stand in.

A matching says for each target position which source position comes there, ``out[target] = array[source]``. A
space may be permuted differently for each index of its outer spaces; those indices are always read in the target.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import StructureError
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.types import Positions
from onnxmerge.units.layout import Block, Space, TensorLayout, Typing

Permutations: TypeAlias = dict[str, Positions]
"""Space id -> int64 array [*sizes of ``varies_with``, size]: ``perm[o1, ..., u]`` is the source's unit that comes to
unit ``u``, where ``o1, ...`` are the target's indices of the outer spaces. A space that is absent does not move."""

Slot: TypeAlias = tuple[int, int]
"""Where a space stands in a block: (axis, place on that axis)."""


def composite(space: str, spaces: Mapping[str, Space]) -> tuple[str, ...]:
    """The space behind its outer spaces: what one of its units is named by."""
    return (*spaces[space].varies_with, space)


def composite_shape(space: str, spaces: Mapping[str, Space]) -> tuple[int, ...]:
    """The shape of a space's permutation."""
    return tuple(spaces[name].size for name in composite(space, spaces))


def identity(spaces: Mapping[str, Space]) -> Permutations:
    """The matching that moves nothing, written out for every free space."""
    return {name: _unmoved(composite_shape(name, spaces)) for name, space in spaces.items() if space.free}


def is_still(perm: Positions) -> bool:
    """Whether a space's permutation moves nothing."""
    return bool(np.all(perm == np.arange(perm.shape[-1])))


def random_permutations(spaces: Mapping[str, Space], seed: int) -> Permutations:
    """A uniformly random permutation of every free space, drawn anew for each index of its outer spaces."""
    rng = np.random.default_rng(seed)
    return {name: rng.permuted(moved, axis=-1) for name, moved in identity(spaces).items()}


def compose(first: Mapping[str, Positions], then: Mapping[str, Positions], spaces: Mapping[str, Space]) -> Permutations:
    """The matching whose transport is the transport by ``first`` followed by the one by ``then``."""
    composed: Permutations = {}
    for name, space in spaces.items():
        if not space.free or not (name in first or name in then):
            continue
        sources = composite_sources(name, spaces, then)
        shape = composite_shape(name, spaces)
        taken = first.get(name, _unmoved(shape))[sources]
        composed[name] = np.ascontiguousarray(np.broadcast_to(taken, shape))
    return composed


def invert(perms: Mapping[str, Positions], spaces: Mapping[str, Space]) -> Permutations:
    """The matching that undoes ``perms``."""
    inverse: Permutations = {}
    for name, space in spaces.items():
        if space.free and name in perms:
            shape = composite_shape(name, spaces)
            undone = np.empty(shape, dtype=np.int64)
            undone[composite_sources(name, spaces, perms)] = np.arange(shape[-1])
            inverse[name] = undone
    return inverse


def composite_sources(
    space: str, spaces: Mapping[str, Space], perms: Mapping[str, Positions]
) -> tuple[NDArray[np.int64], ...]:
    """Where each unit of a space comes from: source indices of (outer spaces..., space), broadcastable to its shape."""
    names = composite(space, spaces)
    grid = np.ix_(*(np.arange(spaces[name].size) for name in names))
    places = dict(zip(names, grid, strict=True))
    sources = []
    for name in names:
        if not spaces[name].free or name not in perms:
            sources.append(places[name])
            continue
        missing = [outer for outer in spaces[name].varies_with if outer not in places]
        if missing:
            raise _unbound(name, missing[0], f"space {space}")
        sources.append(perms[name][tuple(places[outer] for outer in composite(name, spaces))])
    return tuple(sources)


def require_shape(array: NDArray[Any], layout: TensorLayout) -> None:
    """Raise StructureError if the array has another shape than the layout."""
    if array.shape != layout.shape:
        expected = list(layout.shape)
        raise StructureError(f"tensor {layout.name}: expected shape {expected}, found {list(array.shape)}")


def transport(
    array: NDArray[Any], layout: TensorLayout, spaces: Mapping[str, Space], perms: Mapping[str, Positions]
) -> NDArray[Any]:
    """Bring one tensor into the target's coordinates: ``out[target] = array[source]``, block by block.

    Returns ``array`` itself where nothing moves. Raises StructureError if the array has another shape than the
    layout, or if a space stands in a block where its outer space cannot be told.
    """
    require_shape(array, layout)
    moving = [block for block in layout.blocks if any(name in perms and spaces[name].free for name in block.spaces)]
    if not moving:
        return array
    if len(layout.blocks) == 1 and covers(layout.blocks[0], layout.shape):
        return block_content(array, layout, layout.blocks[0], spaces, perms)
    out = array.copy()
    for block in moving:
        out[_region(block)] = block_content(array, layout, block, spaces, perms)
    return out


def transported(weights: Mapping[str, NDArray[Any]], typing: Typing, perms: Mapping[str, Positions]) -> LazyWeights:
    """``weights`` in the coordinates to which ``perms`` lead. A tensor without a layout does not move."""
    perms = {name: perm for name, perm in perms.items() if not is_still(perm)}

    def moved(name: str) -> NDArray[Any]:
        layout = typing.initializers.get(name)
        return weights[name] if layout is None else transport(weights[name], layout, typing.spaces, perms)

    return LazyWeights(weights, moved)


def block_content(
    array: NDArray[Any],
    layout: TensorLayout,
    block: Block,
    spaces: Mapping[str, Space],
    perms: Mapping[str, Positions],
    slots: Collection[Slot] | None = None,
) -> NDArray[Any]:
    """The block's content in the target's coordinates, one dimension for each axis of the tensor.

    With ``slots`` only those move; no other slot's outer spaces may then be among those that stay behind.
    """
    positions = [axis.positions for axis in block.axes]
    if moving := perms and _moving(block, spaces, perms, slots):
        positions = _sources(layout, block, spaces, perms, moving)
        if not _own_axes_only(block, positions):
            gathered: NDArray[Any] = array[tuple(positions)]
            return gathered.reshape([axis.positions.size for axis in block.axes])
    for axis, position in enumerate(positions):
        flat = position.reshape(-1)
        if flat.size != array.shape[axis] or not np.array_equal(flat, np.arange(flat.size)):
            array = np.take(array, flat, axis=axis)
    return array


def _moving(
    block: Block, spaces: Mapping[str, Space], perms: Mapping[str, Positions], slots: Collection[Slot] | None
) -> dict[Slot, str]:
    """The slots whose units move, and their spaces."""
    every = ((index, place) for index, axis in enumerate(block.axes) for place in range(len(axis.spaces)))
    return {
        slot: name
        for slot, name in zip(every, block.spaces, strict=True)
        if name in perms and spaces[name].free and (slots is None or slot in slots)
    }


def _sources(
    layout: TensorLayout,
    block: Block,
    spaces: Mapping[str, Space],
    perms: Mapping[str, Positions],
    moving: Mapping[Slot, str],
) -> list[Positions]:
    """For each axis of the tensor where its content comes from, over the grid of all slots."""
    every = [(index, place) for index, axis in enumerate(block.axes) for place in range(len(axis.spaces))]
    grid = dict(zip(every, np.ix_(*(np.arange(spaces[name].size) for name in block.spaces)), strict=True))
    sources = dict(grid)
    for slot, name in moving.items():
        bound = bind(layout.name, block, slot, spaces)
        sources[slot] = perms[name][tuple(grid[each] for each in (*bound, slot))]
    return [
        axis.positions[tuple(sources[index, place] for place in range(len(axis.spaces)))]
        for index, axis in enumerate(block.axes)
    ]


def _own_axes_only(block: Block, positions: Sequence[Positions]) -> bool:
    """Whether each axis' source depends on that axis alone: then it is a take along each axis."""
    start = 0
    for axis, position in zip(block.axes, positions, strict=True):
        stop = start + len(axis.spaces)
        others = position.shape[:start] + position.shape[stop:]
        if any(size > 1 for size in others):
            return False
        start = stop
    return True


def bind(tensor: str, block: Block, slot: Slot, spaces: Mapping[str, Space]) -> tuple[Slot, ...]:
    """The slots of the outer spaces of the space at ``slot``, in the order of its ``varies_with``.

    An outer space may stand on two axes. The one on the space's own axis counts; failing that, the one beside an
    outer space that is already bound; failing that, the only one. Raises StructureError where that leaves a choice.
    """
    own_axis, place = slot
    name = block.axes[own_axis].spaces[place]
    axes = [own_axis]
    bound: list[Slot] = []
    for outer in reversed(spaces[name].varies_with):
        near = (list(_slots_of(block, outer, [axis])) for axis in axes)
        found = next(filter(None, near), None) or list(_slots_of(block, outer, range(len(block.axes))))
        if len(found) != 1:
            raise _unbound(name, outer, f"tensor {tensor}", len(found))
        bound.append(found[0])
        axes.append(found[0][0])
    return tuple(reversed(bound))


def _slots_of(block: Block, space: str, axes: Sequence[int]) -> Iterator[Slot]:
    for axis in axes:
        for place, name in enumerate(block.axes[axis].spaces):
            if name == space:
                yield axis, place


def covers(block: Block, shape: tuple[int, ...]) -> bool:
    """Whether the block is the whole tensor in plain order, so that its content needs no scattering."""
    return all(
        axis.positions.size == size and np.array_equal(axis.positions.reshape(-1), np.arange(size))
        for axis, size in zip(block.axes, shape, strict=True)
    )


def _region(block: Block) -> tuple[Positions | slice, ...]:
    """An index of the block in its tensor; slices where they will do, because they copy several times faster."""
    flat = [axis.positions.reshape(-1) for axis in block.axes]
    runs = [position.size > 0 and bool(np.all(np.diff(position) == 1)) for position in flat]
    if runs.count(False) > 1:
        return np.ix_(*flat)
    return tuple(
        slice(int(position[0]), int(position[-1]) + 1) if run else position
        for position, run in zip(flat, runs, strict=True)
    )


def _unmoved(shape: tuple[int, ...]) -> Positions:
    return np.broadcast_to(np.arange(shape[-1], dtype=np.int64), shape).copy()


def _unbound(space: str, outer: str, where: str, found: int = 0) -> StructureError:
    return StructureError(
        f"{where}: space {space} varies with {outer}, which stands there {found} times instead of once; "
        "report the model, its typing is not consistent"
    )
