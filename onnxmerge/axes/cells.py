"""Axis cells: the variables that unification solves for.

Every axis of every tensor starts as one *cell*, a set of interchangeable positions of known size. Operators say
which cells are equal; a cell that meets a factorisation or a concatenation is refined to it:

- ``Product(outer, ..., inner)``: row-major factors, what Reshape makes (768 -> 12 heads x 64).
- ``Concat(part, ...)``: segments, what Concat and Split make (fused q | k | v, dense features).
- ``Family(by, ...)``: one member for each part of another axis ``by`` that was cut. When q, k and v are taken out of
  an axis of three, the heads of q, k and v become three members, free to move apart until an operator joins them.

Everything here is safe by construction: where two refinements have no common one, both cells are *fixed* (never
permuted) with a reason. Freedom can get lost, never invented. Whether a family may stand is not decided here but in
``axes.resolve``, which looks at every tensor that carries it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Product:
    """Row-major factors, outermost first. None has size 1."""

    factors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Concat:
    """Consecutive segments."""

    parts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One member (of the full size) for each part of the cut axis ``by``."""

    by: int
    members: tuple[tuple[int, int], ...]


Structure = Product | Concat | Family | None


@dataclass(frozen=True, slots=True)
class Event:
    """Why two cells are one (``other`` >= 0), or why one cell is fixed (``other`` < 0)."""

    cell: int
    other: int
    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Restriction:
    """Only the positions ``part`` of the cut axis ``by`` are left."""

    by: int
    part: int


_DEEPEST = 16
"""Structures are some levels deep; families that depend on each other in turn could be refined without end."""

_MOST_CUTS = 64
"""Into how many segments a product may be cut for the sake of another factorisation: norms have 32 groups or fewer."""


class Cells:
    """A union-find over axis cells with structure. All methods take and return cell numbers."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int] = []
        self._structure: list[Structure] = []
        self._fixed: dict[int, str] = {}
        self.events: list[Event] = []
        self.where = ""
        self._single: set[int] = set()
        self._depth = 0
        self._links = 0

    # --- looking -----------------------------------------------------------------------------------------------

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

    # --- making ------------------------------------------------------------------------------------------------

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

    # --- fixing ------------------------------------------------------------------------------------------------

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

    # --- refining ----------------------------------------------------------------------------------------------

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

    def _refine(self, root: int, structure: Structure, children: Iterable[int], how: str) -> None:
        self._structure[root] = structure
        reason = self._fixed.get(root)
        for child in children:
            self._log(root, child, how)
            if reason is not None:
                self._mark_fixed(self.find(child), reason)

    # --- cutting -----------------------------------------------------------------------------------------------

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

    # --- restricting -------------------------------------------------------------------------------------------

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

    # --- unifying ----------------------------------------------------------------------------------------------

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

    def _ends(self, root: int) -> list[int]:
        return list(accumulate(self._size[leaf] for leaf in self.leaf_parts(root)))

    def _clash(self, a: int, b: int) -> None:
        reason = f"{self.describe(a)} and {self.describe(b)} have no common refinement"
        self.fix(a, reason)
        self.fix(b, reason)
        self._link(self.find(a), self.find(b))

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

    # --- describing --------------------------------------------------------------------------------------------

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
