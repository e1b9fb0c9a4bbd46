"""Cutting: segments of a cell, whatever it is made of."""

from __future__ import annotations

from itertools import accumulate

from onnxmerge.axes.families import Families
from onnxmerge.axes.structure import Concat, Family, Product, Restriction


class Cutting(Families):
    """What Slice and Split do to an axis, and where two concatenations meet."""

    def cut(self, cell: int, start: int, stop: int) -> tuple[int, tuple[Restriction, ...]]:
        """The segment [start, stop) of a cell, and how the axes beside it are restricted by taking it."""
        root = self.find(cell)
        if (start, stop) == (0, self._size[root]):
            return root, ()
        structure = self._structure[root]
        if isinstance(structure, Product):
            return self._cut_product(root, structure.factors, start, stop)
        if isinstance(structure, Family):
            by = structure.by
            pieces = tuple((part, self.cut(member, start, stop)[0]) for part, member in self.family(root).items())
            return self.new(stop - start, Family(by, pieces)), ()
        if not (self._cut_at(root, start) and self._cut_at(root, stop)):
            self.fix(root, f"cut at {start}:{stop}, inside a unit")
            return self.new_fixed(stop - start, f"cut at {start}:{stop}, inside a unit"), ()
        leaves = self.leaf_parts(root)
        ends = list(accumulate(self._size[leaf] for leaf in leaves))
        kept = [leaf for leaf, end in zip(leaves, ends, strict=True) if start < end <= stop]
        part = self.concat(kept)
        return part, (Restriction(root, part),)

    def _cut_product(
        self, root: int, factors: tuple[int, ...], start: int, stop: int
    ) -> tuple[int, tuple[Restriction, ...]]:
        inner = self._size[root] // self._size[factors[0]]
        if start % inner or stop % inner:
            reason = f"cut at {start}:{stop}, inside a unit of {inner}"
            self.fix(root, reason)
            return self.new_fixed(stop - start, reason), ()
        outer, restrictions = self.cut(factors[0], start // inner, stop // inner)
        rest = [self.restrict_all(factor, restrictions) for factor in factors[1:]]
        return self.product([outer, *rest]), restrictions

    def _cut_at(self, root: int, at: int) -> bool:
        """Make ``at`` a boundary between segments; False where that is impossible."""
        if at in (0, self._size[root]):
            return True
        structure = self._structure[root]
        if structure is None:
            parts = [self.new(at), self.new(self._size[root] - at)]
            self._refine(root, Concat(tuple(parts)), parts, "part")
            return True
        if isinstance(structure, Concat):
            begin = 0
            for part in structure.parts:
                if at < begin + self._size[part]:
                    return self._cut_at(self.find(part), at - begin)
                begin += self._size[part]
        if isinstance(structure, Product) and at % (self._size[root] // self._size[structure.factors[0]]):
            return self._cut_inside_unit(root, structure.factors, at)
        if isinstance(structure, (Product, Family)):
            ends = [self.cut(root, 0, at)[0], self.cut(root, at, self._size[root])[0]]
            self._refine(root, Concat(tuple(ends)), ends, "part")
        return True

    def _cut_inside_unit(self, root: int, factors: tuple[int, ...], at: int) -> bool:
        """Make ``at``, inside a unit of the outermost factor, a boundary: that unit becomes two segments."""
        width = self._size[root] // self._size[factors[0]]
        unit = at // width
        _, restrictions = self.cut(factors[0], unit, unit + 1)
        whole = self.product(self.restrict_all(factor, restrictions) for factor in factors[1:])
        if not self._cut_at(self.find(whole), at % width):
            return False
        parts = [*self.leaf_parts(whole)]
        if unit > 0:
            parts.insert(0, self.cut(root, 0, unit * width)[0])
        if (unit + 1) * width < self._size[root]:
            parts.append(self.cut(root, (unit + 1) * width, self._size[root])[0])
        self._refine(root, Concat(tuple(parts)), parts, "part")
        return True
