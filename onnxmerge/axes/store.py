"""The store of axis cells: a union-find in which each class has a size, a structure, and perhaps a reason to be fixed.

Every change is logged with its place, so that ``axes.explain`` can say later why a cell is what it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from onnxmerge.axes.structure import Concat, Event, Family, Product, Structure


class CellStore:
    """Cells by number. All methods take and return cell numbers."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int] = []
        self._structure: list[Structure] = []
        self._fixed: dict[int, str] = {}
        self.events: list[Event] = []
        self.where = ""
        self._single: set[int] = set()
        self._links = 0

    def find(self, cell: int) -> int:
        """The representative of the cell's class."""
        root = cell
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[cell] != root:
            self._parent[cell], cell = root, self._parent[cell]
        return root

    def size(self, cell: int) -> int:
        return self._size[cell]

    def structure(self, cell: int) -> Structure:
        return self._structure[self.find(cell)]

    def fixed(self, cell: int) -> str | None:
        """The reason why the whole cell must not move, or None."""
        return self._fixed.get(self.find(cell))

    def children(self, cell: int) -> tuple[int, ...]:
        """What a cell is made of: its factors, its parts or its members."""
        structure = self.structure(cell)
        if isinstance(structure, Product):
            return structure.factors
        if isinstance(structure, Concat):
            return structure.parts
        return tuple(member for _, member in structure.members) if isinstance(structure, Family) else ()

    def leaf_parts(self, cell: int) -> tuple[int, ...]:
        """The smallest segments that the cell has been cut into, in order; the cell itself if uncut."""
        structure = self.structure(cell)
        if isinstance(structure, Concat):
            return tuple(leaf for part in structure.parts for leaf in self.leaf_parts(part))
        return (self.find(cell),)

    def factors(self, cell: int) -> tuple[int, ...]:
        """The smallest row-major factors of the cell, outermost first; the cell itself if it has none."""
        structure = self.structure(cell)
        if isinstance(structure, Product):
            return tuple(leaf for factor in structure.factors for leaf in self.factors(factor))
        return (self.find(cell),)

    def new(self, size: int, structure: Structure = None) -> int:
        cell = len(self._parent)
        self._parent.append(cell)
        self._size.append(size)
        self._structure.append(structure)
        return cell

    def new_fixed(self, size: int, reason: str) -> int:
        cell = self.new(size)
        self.fix(cell, reason)
        return cell

    def product(self, factors: Iterable[int]) -> int:
        """The row-major product of cells; factors of size 1 are dropped."""
        kept = tuple(factor for factor in factors if self._size[factor] > 1)
        if len(kept) == 1:
            return kept[0]
        if not kept:
            return self.new(1)
        cell = self.new(math.prod(self._size[factor] for factor in kept), Product(kept))
        for factor in kept:
            self._log(cell, factor, "factor")
        return cell

    def concat(self, parts: Sequence[int]) -> int:
        """The concatenation of cells."""
        if len(parts) == 1:
            return parts[0]
        cell = self.new(sum(self._size[part] for part in parts), Concat(tuple(parts)))
        for part in parts:
            self._log(cell, part, "part")
        return cell

    def fix(self, cell: int, reason: str) -> None:
        """Never permute this cell, nor anything it is made of."""
        root = self.find(cell)
        if root in self._fixed:
            return
        self.events.append(Event(cell, -1, self.where, reason))
        self._mark_fixed(root, f"{self.where}: {reason}" if self.where else reason)

    def _mark_fixed(self, root: int, reason: str) -> None:
        if root in self._fixed:
            return
        self._fixed[root] = reason
        for child in self.children(root):
            self._mark_fixed(self.find(child), reason)

    def _refine(self, root: int, structure: Structure, children: Iterable[int], how: str) -> None:
        self._structure[root] = structure
        reason = self._fixed.get(root)
        for child in children:
            self._log(root, child, how)
            if reason is not None:
                self._mark_fixed(self.find(child), reason)

    def _link(self, root: int, to: int, reason: str | None = None) -> None:
        if root == to:
            return
        if reason is not None:
            self._log(root, to, reason)
        for source, target in ((root, to), (to, root)):
            if source in self._fixed:
                self._mark_fixed(target, self._fixed[source])
        if root in self._single:
            self._single.add(to)
        self._parent[root] = to
        self._links += 1

    def _log(self, cell: int, other: int, reason: str) -> None:
        self.events.append(Event(cell, other, self.where, reason))

    def _ends(self, root: int) -> list[int]:
        return list(accumulate(self._size[leaf] for leaf in self.leaf_parts(root)))

    def _carries(self, root: int, cell: int) -> bool:
        """Whether ``cell`` is a factor or a part of the cell, at any depth."""
        structure = self._structure[root]
        children: Iterable[int] = ()
        if isinstance(structure, Product):
            children = structure.factors
        elif isinstance(structure, Concat):
            children = structure.parts
        return any(self.find(child) == cell or self._carries(self.find(child), cell) for child in children)

    def _same(self, cells: Sequence[int], others: Sequence[int]) -> bool:
        return len(cells) == len(others) and all(
            self.find(a) == self.find(b) for a, b in zip(cells, others, strict=True)
        )

    def describe(self, cell: int) -> str:
        """A short form for messages, such as ``3 x 4 x 32`` or ``64 + 64``."""
        structure = self.structure(cell)
        if isinstance(structure, Product):
            return " x ".join(self.describe(factor) for factor in structure.factors)
        if isinstance(structure, Concat):
            return "(" + " + ".join(self.describe(part) for part in structure.parts) + ")"
        return str(self._size[cell])

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._parent)))
