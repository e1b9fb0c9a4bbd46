"""Spaces: the free leaves by name, those that always go together as one, and every tensor laid out over them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from onnxmerge.axes.cells import Cells
from onnxmerge.axes.expand import Grid, Region
from onnxmerge.units.layout import AxisBlock, Block, Space, TensorLayout

UNIFORM = "uniform: nothing there can be told apart"
UNCARRIED = "no weight carries it"


class Spaces:
    """Names leaves, joins leaves that always vary with each other, and lays tensors out.

    ``blocks`` are the expanded tensors, ``weights`` the names of those that training learns in the order in which
    spaces are numbered, ``beside`` the leaves on which each free leaf may depend (``resolve.dependences``).
    ``table`` holds the spaces, ``names`` the space of each leaf.
    """

    def __init__(
        self,
        cells: Cells,
        blocks: Mapping[str, Sequence[Region]],
        weights: Sequence[str],
        beside: Mapping[int, set[int]],
    ) -> None:
        self.table: dict[str, Space] = {}
        self._cells, self._blocks, self._weights = cells, blocks, weights
        self._rank = {leaf: index for index, leaf in enumerate(dict.fromkeys(self._leaves_of(weights)))}
        self._beside = {leaf: found for leaf, found in beside.items() if leaf in self._rank}
        self._joint = self._joint_leaves()
        self.names: dict[int, str] = {}
        self._name_all()

    # --- leaves that are one larger space ----------------------------------------------------------------------

    def _joint_leaves(self) -> dict[int, tuple[int, ...]]:
        """Leaves that always stand side by side on one axis of every weight: together they are one larger space.

        A reshape to (groups, width) and back splits an axis that no operator ever tells apart, and a channel shuffle
        only changes the order of the two factors; both get the whole symmetric group back here.
        """
        apart = self._pairs_apart()
        together: dict[int, set[int]] = {}
        for leaf, others in self._beside.items():
            together[leaf] = {leaf} | {
                other
                for other in others
                if leaf in self._beside.get(other, ()) and frozenset((leaf, other)) not in apart
            }
        joint = {}
        for leaf, clique in together.items():
            if len(clique) > 1 and all(together[other] == clique for other in clique):
                joint[leaf] = tuple(sorted(clique, key=self._rank.__getitem__))
        return joint

    def _pairs_apart(self) -> set[frozenset[int]]:
        """Pairs of mutually dependent leaves that some weight carries on different axes, or one of them twice."""
        apart: set[frozenset[int]] = set()
        for name in self._weights:
            for block in self._blocks[name]:
                where: dict[int, list[int]] = {}
                for axis, grid in enumerate(block):
                    for leaf, _ in grid.leaves if grid is not None else ():
                        where.setdefault(leaf, []).append(axis)
                for leaf, axes in where.items():
                    for other in self._beside.get(leaf, ()):
                        if len(axes) > 1 or where.get(other) != axes:
                            apart.add(frozenset((leaf, other)))
        return apart

    # --- names -------------------------------------------------------------------------------------------------

    def _name_all(self) -> None:
        others = [name for name in self._blocks if name not in set(self._weights)]
        leaves = dict.fromkeys([*self._rank, *self._leaves_of(others)])
        counts = {True: 0, False: 0}
        for leaf in leaves:
            if leaf in self.names:
                continue
            reason = self._cells.fixed(leaf) or (None if leaf in self._rank else UNCARRIED)
            members = self._joint.get(leaf, (leaf,))
            free = reason is None
            name = f"{'p' if free else 'f'}{counts[free]}"
            counts[free] += 1
            size = math.prod(self._cells.size(member) for member in members)
            self.table[name] = Space(name, size, (), reason)
            self.names.update(dict.fromkeys(members, name))
        for leaf, name in self.names.items():
            space = self.table[name]
            if space.free:
                self.table[name] = Space(name, space.size, self._outer(leaf))

    def _outer(self, leaf: int) -> tuple[str, ...]:
        """The spaces that a leaf may vary with, outermost first."""
        ordered = sorted(self._above(leaf), key=lambda other: (len(self._above(other)), self._rank[other]))
        return tuple(dict.fromkeys(self.names[other] for other in ordered))

    def _above(self, leaf: int) -> list[int]:
        """Leaves that this one depends on. Of two that could depend on each other, the later depends on the earlier."""
        members = self._joint.get(leaf, (leaf,))
        found = []
        for other in self._beside.get(leaf, ()):
            mutual = leaf in self._beside.get(other, ())
            if other not in members and other in self._rank and not (mutual and self._rank[other] > self._rank[leaf]):
                found.append(other)
        return found

    def _leaves_of(self, tensors: Iterable[str]) -> Iterator[int]:
        for name in tensors:
            for block in self._blocks[name]:
                for grid in block:
                    yield from (leaf for leaf, _ in grid.leaves) if grid is not None else ()

    # --- layouts -----------------------------------------------------------------------------------------------

    def layout(self, name: str, shape: tuple[int, ...]) -> TensorLayout | None:
        """The blocks of a tensor; None for an activation that carries a joint space on two axes."""
        blocks = []
        for block in self._blocks[name]:
            axes = [self._axis(grid, size) for grid, size in zip(block, shape, strict=True)]
            present = [axis for axis in axes if axis is not None]
            if len(present) < len(axes):
                return None
            blocks.append(Block(tuple(present)))
        return TensorLayout(name, shape, tuple(blocks))

    def _axis(self, grid: Grid | None, size: int) -> AxisBlock | None:
        if grid is None:
            return self._uniform(size)
        strides = dict(grid.leaves)
        counts = Counter(leaf for leaf, _ in grid.leaves)
        names: list[str] = []
        positions = np.full((), grid.offset, dtype=np.int64)
        done: set[int] = set()
        for leaf, stride in grid.leaves:
            if leaf in done:
                continue
            members = self._joint.get(leaf, (leaf,))
            if len(members) == 1:
                # A fixed leaf may stand twice on one axis, each time with a stride of its own.
                index = stride * np.arange(self._cells.size(leaf))
            elif any(counts[member] != 1 for member in members):
                return None
            else:
                done.update(members)
                index = np.zeros((), dtype=np.int64)
                for member in members:
                    index = np.add.outer(index, strides[member] * np.arange(self._cells.size(member)))
            positions = np.add.outer(positions, index.ravel())
            names.append(self.names[leaf])
        return AxisBlock(tuple(names), positions)

    def _uniform(self, size: int) -> AxisBlock:
        if size == 1:
            return AxisBlock((), np.zeros((), dtype=np.int64))
        name = f"u{size}"
        self.table.setdefault(name, Space(name, size, (), UNIFORM))
        return AxisBlock((name,), np.arange(size, dtype=np.int64))

    # --- taps --------------------------------------------------------------------------------------------------

    def taps(self, found: Iterable[tuple[str, int]]) -> dict[str, tuple[str, ...]]:
        """For each free space, the activations in which an operator contracts it."""
        weights = set(self._weights)
        taps: dict[str, dict[str, None]] = {}
        for tensor, cell in found:
            if tensor in weights or tensor not in self._blocks:
                continue
            inside = set(leaves_below(self._cells, cell))
            for leaf in self._leaves_of([tensor]):
                if leaf in inside and self.table[self.names[leaf]].free:
                    taps.setdefault(self.names[leaf], {})[tensor] = None
        return {name: tuple(taps[name]) for name in self.table if name in taps}


def leaves_below(cells: Cells, cell: int) -> Iterator[int]:
    """The representatives of a cell and of everything it is made of."""
    for child in cells.children(cell):
        yield from leaves_below(cells, child)
    yield cells.find(cell)
