"""What will be matched: groups of spaces that are solved together, and where their units lie in the weights.

A group is a free space and every space that varies with it, nested to any depth (heads and their inner units). It
is solved inside out, so its spaces form a tree under one root. The groups are the nodes of a graph, whose edges join
those that see each other's matching: where one moves, its neighbours are matched again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxmerge.units.layout import Block, Space, TensorLayout, Typing
from onnxmerge.units.permutations import Slot, bind, composite_shape

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, slots=True, eq=False)
class Occurrence:
    """One block of an initializer in which units of one group stand.

    ``kept`` are the slots of those units and of the outer spaces they are bound to, ``labels`` the spaces there,
    ``outer[i]`` the places in ``kept`` of the outer spaces of ``kept[i]``, in the order of ``varies_with``. All other
    slots are features of these units. ``moved`` are those of them that other groups (or the same group, where it
    stands on two axes) permute. ``leaves`` are the places in ``kept`` of units with no inner units in this block:
    the block is part of their weight vectors.
    """

    layout: TensorLayout
    block: Block
    kept: tuple[Slot, ...]
    labels: tuple[str, ...]
    outer: tuple[tuple[int, ...], ...]
    leaves: tuple[int, ...]
    moved: frozenset[Slot]

    def space(self, slot: Slot) -> str:
        """The space that stands at a slot of the block."""
        axis, place = slot
        return self.block.axes[axis].spaces[place]

    @property
    def linked(self) -> bool:
        """Whether two kinds of inner units share the block, so that the similarity of one needs the other's match."""
        return len(self.leaves) > 1


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Spaces solved together: ``members`` with the root first; ``children`` maps each to those directly inside it."""

    root: str
    members: tuple[str, ...]
    children: Mapping[str, tuple[str, ...]]
    occurrences: tuple[Occurrence, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """``groups`` by root. ``spaces`` are those of the typing, with those that are left alone marked as fixed.

    ``graph`` joins the roots of groups that stand in one block of an initializer, where each moves the other's
    features; a group that stands on two axes of a block is joined to itself. ``skipped`` says why a free space is left
    alone; that is safe, since the identity is a permutation too.
    """

    spaces: Mapping[str, Space]
    groups: Mapping[str, Group]
    graph: nx.Graph[str]
    skipped: Mapping[str, str]

    def moves_itself(self, group: Group) -> bool:
        """Whether a group's own matching moves the features that its units are compared by."""
        return bool(self.graph.has_edge(group.root, group.root))


def make_plan(typing: Typing, pinned: frozenset[str] = frozenset()) -> Plan:
    """Find the groups of a typing, without the spaces that are ``pinned``.

    Statistics are no part of a unit's weight vector, so they are left out.
    """
    skipped: dict[str, str] = {}
    spaces: dict[str, Space] = {}
    for name in sorted(typing.spaces, key=lambda name: len(typing.spaces[name].varies_with)):
        space = typing.spaces[name]
        pin = "it is pinned" if name in pinned else None
        reason = space.fixed or pin or _why_not(space, typing.spaces, skipped)
        if space.free and reason:
            skipped[name] = reason
        spaces[name] = Space(space.id, space.size, space.varies_with, reason)
    spaces = {name: spaces[name] for name in typing.spaces}
    members = _members(spaces)
    roots = {name: root for root, names in members.items() for name in names}
    found: dict[str, list[Occurrence]] = {root: [] for root in members}
    for tensor in typing.initializers:
        if tensor not in typing.statistics:
            for root, occurrence in _occurrences(typing.initializers[tensor], spaces, roots):
                found[root].append(occurrence)
    groups = {root: Group(root, names, _children(names, spaces), tuple(found[root])) for root, names in members.items()}
    return Plan(
        spaces, groups, _graph(groups, roots), {name: why for name, why in skipped.items() if spaces[name].size > 1}
    )


def inward(plan: Plan) -> Iterator[Group]:
    """Each group once, seen only where its neighbours are known: given already, or fixed.

    The group of which most is known goes first, so that a pass works its way in from the inputs and the outputs.
    """
    left, known = dict(plan.groups), set[str]()
    while left:
        seen = {root: _seen(group, known) for root, group in left.items()}
        root = max(left, key=lambda name: _features(plan, seen[name]) / max(_features(plan, left[name]), 1))
        known.update(left.pop(root).members)
        yield seen[root]


def _seen(group: Group, known: Collection[str]) -> Group:
    """The group with those of its occurrences in which all neighbours are known."""

    def moved(occurrence: Occurrence) -> set[str]:
        return {occurrence.space(slot) for slot in occurrence.moved}

    return replace(group, occurrences=tuple(each for each in group.occurrences if moved(each) <= {*known}))


def _features(plan: Plan, group: Group) -> float:
    """The lengths of the weight vectors of a group's units, added up over its spaces."""
    sizes = {name: math.prod(composite_shape(name, plan.spaces)) for name in group.members}
    return sum(
        math.prod(plan.spaces[name].size for name in occurrence.block.spaces) / sizes[occurrence.labels[leaf]]
        for occurrence in group.occurrences
        for leaf in occurrence.leaves
    )


def _why_not(space: Space, spaces: Mapping[str, Space], skipped: Mapping[str, str]) -> str | None:
    """Why a free space is not matched: one unit only, or outer spaces that do not nest."""
    if space.size <= 1:
        return "a single unit"
    seen: set[str] = set()
    for name in _by_depth(space.varies_with, spaces):
        outer = spaces[name]
        if not outer.free or outer.size <= 1:
            continue
        if name in skipped:
            return f"its outer space {name} is not matched: {skipped[name]}"
        if not set(outer.varies_with) <= set(space.varies_with):
            return f"its outer space {name} varies with a space that it does not vary with"
        if not seen <= set(outer.varies_with):
            return f"its outer spaces {', '.join(sorted(seen))} and {name} do not nest"
        seen.add(name)
    return None


def _by_depth(names: tuple[str, ...], spaces: Mapping[str, Space]) -> list[str]:
    return sorted(names, key=lambda name: len(spaces[name].varies_with))


def _free_outers(space: Space, spaces: Mapping[str, Space]) -> list[str]:
    """The free outer spaces, outermost first."""
    return [name for name in _by_depth(space.varies_with, spaces) if spaces[name].free]


def _members(spaces: Mapping[str, Space]) -> dict[str, tuple[str, ...]]:
    """Root -> the spaces of its group, outer before inner."""
    members: dict[str, tuple[str, ...]] = {}
    for name in _by_depth(tuple(spaces), spaces):
        if spaces[name].free:
            root = next(iter(_free_outers(spaces[name], spaces)), name)
            members[root] = (*members.get(root, ()), name)
    return members


def _children(names: tuple[str, ...], spaces: Mapping[str, Space]) -> dict[str, tuple[str, ...]]:
    parents = {name: (_free_outers(spaces[name], spaces) or [""])[-1] for name in names}
    return {name: tuple(child for child in names if parents[child] == name) for name in names}


def _occurrences(
    layout: TensorLayout, spaces: Mapping[str, Space], roots: Mapping[str, str]
) -> Iterator[tuple[str, Occurrence]]:
    """Cut each block of a tensor by the slots of roots: (root of the group, occurrence)."""
    for block in layout.blocks:
        slots = [(axis, place) for axis, each in enumerate(block.axes) for place in range(len(each.spaces))]
        labels = dict(zip(slots, block.spaces, strict=True))
        bound = {slot: bind(layout.name, block, slot, spaces) for slot in slots if labels[slot] in roots}
        parts: dict[Slot, set[Slot]] = {}
        for slot, outers in bound.items():
            root_slot = next(each for each in (*outers, slot) if labels[each] == roots[labels[slot]])
            parts.setdefault(root_slot, set()).update((*outers, slot))
        for root_slot, part in parts.items():
            kept = tuple(sorted(part, key=lambda slot: (len(bound.get(slot, ())), slot)))
            outer = tuple(tuple(kept.index(each) for each in bound.get(slot, ())) for slot in kept)
            holding = {place for places in outer for place in places}
            leaves = tuple(place for place, slot in enumerate(kept) if slot in bound and place not in holding)
            kept_labels = tuple(labels[slot] for slot in kept)
            moved = frozenset(bound.keys() - part)
            yield labels[root_slot], Occurrence(layout, block, kept, kept_labels, outer, leaves, moved)


def _graph(groups: Mapping[str, Group], roots: Mapping[str, str]) -> nx.Graph[str]:
    import networkx as nx  # here, for it takes longer to import than some commands to run

    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(groups)
    for root, group in groups.items():
        for occurrence in group.occurrences:
            graph.add_edges_from((root, roots[occurrence.space(slot)]) for slot in sorted(occurrence.moved))
    return graph
