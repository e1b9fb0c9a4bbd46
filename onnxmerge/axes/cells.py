"""Axis cells: the variables that unification solves for.

Every axis of every tensor starts as one *cell*, a set of interchangeable positions of known size. Operators say
which cells are equal; a cell that meets a factorisation or a concatenation is refined to it (``axes.structure``). The
calculus is built up in layers: ``axes.store`` (union-find), ``axes.families`` (what varies with the parts of another
axis), ``axes.cutting`` (segments), ``axes.splitting`` (factors), and unification here.

Everything is safe by construction: where two refinements have no common one, both cells are *fixed* (never permuted)
with a reason. Freedom can get lost, never invented.
"""

from __future__ import annotations

from onnxmerge.axes.splitting import Splitting
from onnxmerge.axes.structure import Concat, Family, Product, Restriction

_DEEPEST = 16
"""Structures are some levels deep; families that depend on each other in turn could be refined without end."""


class Cells(Splitting):
    """Cells that can be made equal."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def unify(self, one: int, other: int, reason: str = "") -> None:
        """Make two cells equal, refining both; where that is impossible, fix both.

        A single position has no order to share, but it may be one of several parts, each with a member of a family.
        """
        a, b = self.find(one), self.find(other)
        if a == b or self._size[a] == self._size[b] == 1:
            return
        if self._size[a] != self._size[b]:
            reason = f"sizes {self._size[a]} and {self._size[b]} differ"
            self.fix(a, reason)
            self.fix(b, reason)
            return
        if a in self._fixed or b in self._fixed:
            self._mark_fixed(a, self._fixed.get(b, ""))
            self._mark_fixed(b, self._fixed.get(a, ""))
        self._log(one, other, reason)
        if self._contains(b, a):
            self._join_member(b, a)
        elif self._contains(a, b):
            self._join_member(a, b)
        elif self._structure[a] is None:
            self._link(a, b)
        elif self._structure[b] is None:
            self._link(b, a)
        elif self._depth == _DEEPEST:
            self._clash(a, b)
        else:
            self._depth += 1
            self._unify_structures(a, b)
            self._depth -= 1

    def _unify_structures(self, a: int, b: int) -> None:
        one, other = self._structure[a], self._structure[b]
        if isinstance(other, Family) and not isinstance(one, Family):
            a, b, one, other = b, a, other, one
        if isinstance(one, Family):
            if (
                isinstance(other, Family)
                and self._members(a) & self._members(b)
                and self.find(one.by) != self.find(other.by)
            ):
                # A member of both holds in a part of either axis: restricting it by them in turn would never end.
                return self.unify(self.collapse(a), self.collapse(b))
            for part, member in self.family(a).items():
                self.unify(member, self.restrict(b, Restriction(one.by, part)))
        elif isinstance(one, Concat) and isinstance(other, Concat):
            self._align_parts(a, b)
        elif isinstance(one, Product) and isinstance(other, Product):
            sizes = [self._size[factor] for factor in self.factors(b)]
            groups = self._regroup(list(self.factors(a)), sizes)
            if groups is None:
                return self._clash(a, b)
            for group, factor in zip(groups, self.factors(b), strict=False):
                self.unify(group, factor)
        else:
            if isinstance(one, Concat):
                a, b = b, a
            if not self._align_product(a, b):
                return self._clash(a, b)
        # Unifying the pieces may have changed both; the second keeps its structure, the first points to it.
        a, b = self.find(a), self.find(b)
        if a != b:
            keep, drop = (a, b) if isinstance(self._structure[a], Product) else (b, a)
            self._link(drop, keep)
        return None

    def _align_parts(self, a: int, b: int) -> None:
        ends = sorted({*self._ends(a), *self._ends(b)})
        for root in (a, b):
            if not all(self._cut_at(root, end) for end in ends):
                return self._clash(a, b)
        for one, other in zip(self.leaf_parts(a), self.leaf_parts(b), strict=False):
            self.unify(one, other)
        return None

    def _align_product(self, product: int, concat: int) -> bool:
        """Cut a product along its outermost factor at a concat's boundaries."""
        structure = self._structure[product]
        if not isinstance(structure, Product):
            return False
        inner = self._size[product] // self._size[structure.factors[0]]
        ends = self._ends(concat)
        if any(end % inner for end in ends):
            return False
        for start, stop, part in zip([0, *ends], ends, self.leaf_parts(concat), strict=False):
            self.unify(self.cut(product, start, stop)[0], part)
        return True

    def _clash(self, a: int, b: int) -> None:
        reason = f"{self.describe(a)} and {self.describe(b)} have no common refinement"
        self.fix(a, reason)
        self.fix(b, reason)
        self._link(self.find(a), self.find(b))
