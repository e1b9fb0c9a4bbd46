"""Splitting: a cell as row-major factors, what Reshape and the patterns of signatures ask for.

Factor boundaries are aligned by common divisors. Where widths have none, the cell is cut at the boundaries of both, and
only units that both see as one segment are left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from onnxmerge.axes.cutting import Cutting
from onnxmerge.axes.structure import Concat, Family, Product

_MOST_CUTS = 64
"""Into how many segments a product may be cut for the sake of another factorisation: norms have 32 groups or fewer."""


class Splitting(Cutting):
    """Refinement of cells to factors of given sizes."""

    def split(self, cell: int, sizes: Sequence[int]) -> list[int]:
        """View a cell as row-major factors of the given sizes (their product is the cell's size)."""
        kept = [size for size in sizes if size > 1]
        found = iter(self._split(self.find(cell), kept))
        return [next(found) if size > 1 else self.new(1) for size in sizes]

    def _split(self, root: int, sizes: list[int]) -> list[int]:
        if len(sizes) <= 1:
            return [root] if sizes else []
        structure = self._structure[root]
        if structure is None:
            factors = [self.new(size) for size in sizes]
            self._refine(root, Product(tuple(factors)), factors, "factor")
            return factors
        if isinstance(structure, Product):
            return self._regroup(list(self.factors(root)), sizes) or self._split_across(root, sizes)
        if isinstance(structure, Concat):
            return self._split_concat(root, sizes)
        split = {part: self._split(self.find(member), sizes) for part, member in self.family(root).items()}
        factors = [
            self.new(size, Family(structure.by, tuple((part, pieces[i]) for part, pieces in split.items())))
            for i, size in enumerate(sizes)
        ]
        self._refine(root, Product(tuple(factors)), factors, "factor")
        return factors

    def _split_across(self, root: int, sizes: list[int]) -> list[int]:
        """Factors of other sizes than a product has: only segments that both sides see are left of either."""
        width = math.prod(sizes[1:])
        hopeless = root in self._fixed or sizes[0] > _MOST_CUTS
        if hopeless or not all(self._cut_at(root, at) for at in range(width, self._size[root], width)):
            return self._give_up(root, sizes)
        return self._split_concat(root, sizes)

    def _split_concat(self, root: int, sizes: list[int]) -> list[int]:
        """Segments seen as outer x inner: the inner factor is a family by the outer.

        A unit of the outer factor that lies across a boundary (a norm group with channels of both parts of a skip
        concatenation) is a part of the outer by itself, and a concatenation inside.
        """
        width = math.prod(sizes[1:])
        if not self._cut_around_boundaries(root, width):
            return self._give_up(root, sizes)
        pieces = [self._outer_and_inner(chunk, width) for chunk in self._chunks(root, width)]
        outer = self.new(sizes[0], Concat(tuple(one for one, _ in pieces)))
        inner = self.new(width, Family(outer, tuple(pieces)))
        parts = self.leaf_parts(root)
        self._refine(root, Product((outer, inner)), [outer, inner], "factor")
        for part in parts:
            self._log(part, inner, "factor")
        return [outer, *self._split(self.find(inner), sizes[1:])]

    def _cut_around_boundaries(self, root: int, width: int) -> bool:
        """Cut on both sides of every unit of this width that has a boundary inside; False where that is impossible.

        A cut may have to go along the units of a segment, so that it makes more boundaries: until there are none left.
        """
        while True:
            ends = {0, *self._ends(root)}
            inside = {end - end % width for end in ends if end % width}
            wanted = (inside | {at + width for at in inside}) - ends
            if not wanted:
                return True
            if root in self._fixed or not all(self._cut_at(root, at) for at in sorted(wanted)):
                return False

    def _chunks(self, root: int, width: int) -> Iterator[list[int]]:
        """The segments of a cell, those inside one unit of this width together."""
        chunk: list[int] = []
        for part in self.leaf_parts(root):
            chunk.append(part)
            if sum(self._size[each] for each in chunk) % width == 0:
                yield chunk
                chunk = []

    def _outer_and_inner(self, chunk: list[int], width: int) -> tuple[int, int]:
        if len(chunk) > 1:
            return self.new(1), self.concat(chunk)
        outer, inner = self.split(chunk[0], [self._size[chunk[0]] // width, width])
        return outer, inner

    def regroup(self, cells: Sequence[int], sizes: Sequence[int]) -> list[int]:
        """What Reshape does: factors ``cells`` laid out row-major, seen as axes of the given sizes."""
        factors = [factor for cell in cells if self._size[cell] > 1 for factor in self.factors(cell)]
        kept = [size for size in sizes if size > 1]
        grouped = self._regroup(factors, kept)
        if grouped is None:
            reason = f"sizes {[self._size[cell] for cell in cells]} and {list(sizes)} have no common factorisation"
            for cell in cells:
                self.fix(cell, reason)
            grouped = [self.new_fixed(size, reason) for size in kept]
        found = iter(grouped)
        return [next(found) if size > 1 else self.new(1) for size in sizes]

    def _regroup(self, factors: list[int], sizes: Sequence[int]) -> list[int] | None:
        """Cells of the given sizes made of consecutive factors, splitting factors where needed; None if impossible."""
        stack = list(reversed(factors))
        groups: list[int] = []
        for size in sizes:
            group: list[int] = []
            missing = size
            while missing > 1:
                factor = stack.pop()
                width = self._size[factor]
                if missing % width == 0:
                    group.append(factor)
                    missing //= width
                elif width % missing == 0:
                    outer, inner = self.split(factor, [missing, width // missing])
                    stack.extend((inner, outer))
                else:
                    return None
            groups.append(self.product(group))
        return groups

    def _give_up(self, root: int, sizes: Sequence[int]) -> list[int]:
        reason = f"an axis of {self._size[root]} does not factor as {list(sizes)}"
        self.fix(root, reason)
        return [self.new_fixed(size, reason) for size in sizes]
