"""Families: what an axis is in each part of another axis that was cut, and when it is the same in all parts.

Whether a family may stand is not decided here but in ``axes.resolve``, which looks at every tensor that carries it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from onnxmerge.axes.store import CellStore
from onnxmerge.axes.structure import Concat, Family, Product, Restriction


class Families(CellStore, ABC):
    """Restriction to a part of another axis, and its inverse, collapse."""

    @abstractmethod
    def unify(self, one: int, other: int, reason: str = "") -> None:
        """Make two cells equal (see ``axes.cells``)."""

    def family(self, cell: int) -> dict[int, int]:
        """Members of a family by the *current* leaf parts of its axis (which may have been cut further).

        Where two parts of the axis have become one cell (the halves of a gated unit), so have their members: by the
        part alone nobody could tell them apart.
        """
        root = self.find(cell)
        structure = self._structure[root]
        if not isinstance(structure, Family):
            return {}
        members: dict[int, int] = {}
        for part, member in structure.members:
            leaves = self.leaf_parts(part)
            for leaf in leaves:
                found = member if len(leaves) == 1 else self.restrict(member, Restriction(part, leaf))
                if leaf in members:
                    self.unify(members[leaf], found, "one part twice")
                members[leaf] = found
        # Kept by leaf parts: otherwise nested families would be expanded again for each way through their parts.
        settled = tuple(members.items())
        if settled != structure.members and self._structure[root] == structure:
            self._structure[root] = Family(structure.by, settled)
        return members

    def restrict_all(self, cell: int, restrictions: Iterable[Restriction]) -> int:
        for restriction in restrictions:
            cell = self.restrict(cell, restriction)
        return cell

    def restrict(self, cell: int, restriction: Restriction) -> int:
        """The cell as it is where only a part of another axis is left (the same cell if nothing can depend on it)."""
        root, by = self.find(cell), self.find(restriction.by)
        if self._size[root] == 1 or root in self._fixed or root == by:
            return root
        structure = self._structure[root]
        if isinstance(structure, Product):
            if self._carries(root, by):
                return root  # what depends on that axis depends on the one that stands here, which is whole
            factors = [self.restrict(factor, restriction) for factor in structure.factors]
            return root if self._same(factors, structure.factors) else self.product(factors)
        if isinstance(structure, Concat):
            parts = [self.restrict(part, restriction) for part in structure.parts]
            return root if self._same(parts, structure.parts) else self.concat(parts)
        if structure is None:
            if root in self._single:
                return root
            members = tuple((part, self.new(self._size[root])) for part in self.leaf_parts(by))
            self._refine(root, Family(by, members), (member for _, member in members), "member")
        elif self.find(structure.by) != by:
            members = tuple((part, self.restrict(member, restriction)) for part, member in self.family(root).items())
            if self._same([m for _, m in members], [m for _, m in structure.members]):
                return root
            return self.new(self._size[root], Family(structure.by, members))
        return self._select(root, restriction.part)

    def _select(self, root: int, part: int) -> int:
        family = self.family(root)
        leaves = self.leaf_parts(part)
        if any(leaf not in family for leaf in leaves):
            return self.collapse(root)
        if len({self.find(family[leaf]) for leaf in leaves}) == 1:
            return self.find(family[leaves[0]])
        return self.new(self._size[root], Family(self.find(part), tuple((leaf, family[leaf]) for leaf in leaves)))

    def collapse(self, cell: int, *, for_good: bool = False) -> int:
        """Give up that a family's members may differ: all become one cell, ``for_good`` if it may never part again."""
        root = self.find(cell)
        structure = self._structure[root]
        if not isinstance(structure, Family):
            return root
        members = list(self.family(root).values())
        for member in members[1:]:
            self.unify(members[0], member, "one in every part")
        root, member = self.find(root), self.find(members[0])
        if root != member:
            self._link(root, member, "one in every part")
        if for_good:
            self._single.add(self.find(member))
        return self.find(member)

    def settle_copies(self) -> None:
        """Make members one whose parts have become one since they were made."""
        links = -1
        while links != self._links:
            links = self._links
            for cell in list(self):
                structure = self._structure[cell]
                if cell == self.find(cell) and isinstance(structure, Family):
                    leaves = [leaf for part, _ in structure.members for leaf in self.leaf_parts(part)]
                    if len(set(leaves)) < len(leaves):
                        self.family(cell)

    def _members(self, root: int) -> set[int]:
        """The members of a family, at any depth."""
        structure = self._structure[root]
        members = {self.find(m) for _, m in structure.members} if isinstance(structure, Family) else set()
        return members.union(*(self._members(member) for member in members))

    def _contains(self, root: int, cell: int) -> bool:
        """Whether ``cell`` is a member of the family ``root``, at any depth."""
        structure = self._structure[root]
        if not isinstance(structure, Family):
            return False
        return any(self.find(m) == cell or self._contains(self.find(m), cell) for _, m in structure.members)

    def _join_member(self, family: int, member: int) -> None:
        """A family equals one of its own members: it does not vary after all."""
        joined = self.collapse(family)
        if self.find(member) != joined:
            self.unify(member, joined)
