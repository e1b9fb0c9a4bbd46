"""From the cells of a tensor to blocks of plain grids.

A concatenation cuts a tensor into blocks, a product gives one axis of a block several leaves, and a family is
replaced by the member that belongs to the part of the other axis that the block lies in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product as cartesian

from onnxmerge.axes.cells import Cells
from onnxmerge.axes.signature import NEUTRAL, Axes
from onnxmerge.axes.structure import Concat, Family, Product


@dataclass(frozen=True, slots=True)
class Grid:
    """One way through an axis: leaf cells with strides from an offset, and the parts of concats it went through."""

    leaves: tuple[tuple[int, int], ...]
    offset: int
    choices: Mapping[int, int]


Region = tuple[Grid | None, ...]
"""One block of a tensor: a grid for each axis, None where the axis is uniform or has one position."""


class MissingAxisError(Exception):
    """A family stands in a tensor without the axis that it depends on."""

    def __init__(self, family: int) -> None:
        super().__init__()
        self.family = family


class Expander:
    """Expands the cells of a tensor into blocks of plain grids."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells

    def blocks(self, axes: Axes) -> list[Region]:
        """Every block of a tensor.

        Raises MissingAxisError where a family cannot be told which member stands here.
        """
        wanted = self._axes_of_families(axes)
        alternatives: list[list[Grid] | list[None]] = [
            self._grids(cell, wanted) if cell != NEUTRAL else [None] for cell in axes
        ]
        return [block for choice in cartesian(*alternatives) for block in self._settle(tuple(choice), wanted)]

    def _axes_of_families(self, axes: Axes) -> frozenset[int]:
        """The cut axes on which a free family of this tensor depends; other fixed axes need no expansion."""
        found: set[int] = set()
        stack = [cell for cell in axes if cell != NEUTRAL]
        while stack:
            root = self._cells.find(stack.pop())
            structure = self._cells.structure(root)
            if self._cells.fixed(root) is not None and root not in found:
                if isinstance(structure, (Product, Concat)):
                    continue
            elif isinstance(structure, Family):
                found.add(self._cells.find(structure.by))
                stack.extend(member for _, member in structure.members)
            elif isinstance(structure, Product):
                stack.extend(structure.factors)
            elif isinstance(structure, Concat):
                stack.extend(structure.parts)
        for root in list(found):
            found.update(self._inside(root))
        return frozenset(found)

    def _inside(self, root: int) -> Iterator[int]:
        structure = self._cells.structure(root)
        if isinstance(structure, Concat):
            for part in structure.parts:
                yield self._cells.find(part)
                yield from self._inside(part)

    def _grids(self, cell: int, wanted: frozenset[int]) -> list[Grid]:
        cells, root = self._cells, self._cells.find(cell)
        if cells.size(root) == 1:
            return [Grid((), 0, {})]
        structure = cells.structure(root)
        if isinstance(structure, Product) and (cells.fixed(root) is None or self._holds(root, wanted)):
            grids = [Grid((), 0, {})]
            for factor in structure.factors:
                size = cells.size(factor)
                grids = [_nest(outer, inner, size) for outer in grids for inner in self._grids(factor, wanted)]
            return grids
        if isinstance(structure, Concat) and (cells.fixed(root) is None or root in wanted):
            found, begin = [], 0
            for part in structure.parts:
                for grid in self._grids(part, wanted):
                    choices = {**grid.choices, root: cells.find(part)}
                    found.append(Grid(grid.leaves, grid.offset + begin, choices))
                begin += cells.size(part)
            return found
        return [Grid(((root, 1),), 0, {})]

    def _holds(self, root: int, wanted: frozenset[int]) -> bool:
        return any(factor in wanted for factor in self._cells.factors(root))

    def _settle(self, block: Region, wanted: frozenset[int]) -> Iterator[Region]:
        """Replace every family by the member that stands in this block."""
        for index, grid in enumerate(block):
            if grid is None:
                continue
            for position, (leaf, stride) in enumerate(grid.leaves):
                structure = self._cells.structure(leaf)
                if not isinstance(structure, Family) or self._cells.fixed(leaf) is not None:
                    continue
                member = self._member(block, index, leaf, structure)
                for inner in self._grids(member, wanted):
                    leaves = tuple((cell, stride * s) for cell, s in inner.leaves)
                    merged = Grid(
                        grid.leaves[:position] + leaves + grid.leaves[position + 1 :],
                        grid.offset + stride * inner.offset,
                        {**grid.choices, **inner.choices},
                    )
                    yield from self._settle((*block[:index], merged, *block[index + 1 :]), wanted)
                return
        yield block

    def _member(self, block: Region, axis: int, leaf: int, family: Family) -> int:
        by = self._cells.find(family.by)
        holders = [grid for grid in block if grid is not None and by in grid.choices]
        own = block[axis]
        if own is not None and by in own.choices:
            holders = [own]
        if len(holders) != 1:
            raise MissingAxisError(leaf)
        part = by
        while part in holders[0].choices:
            part = holders[0].choices[part]
        member = self._cells.family(leaf).get(part)
        if member is None:
            raise MissingAxisError(leaf)
        return member


def _nest(outer: Grid, inner: Grid, size: int) -> Grid:
    leaves = (*((cell, stride * size) for cell, stride in outer.leaves), *inner.leaves)
    return Grid(leaves, outer.offset * size + inner.offset, {**outer.choices, **inner.choices})
