"""One group as a problem of assignment: how alike the units of two models are, nested as the spaces of the group are.

Several models that stand in one order already can take the place of the first (``together``): their similarities add
up, so that the other model is matched to all of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxmerge.types import Floats, Positions


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """A block that two kinds of inner units share: both models' weights [*slots, features], other axes aligned.

    ``labels`` are the spaces at the slots, ``outer`` the places of the slots that each is bound to. ``part`` says
    which of several models compared with the other one the term is about (see ``GroupProblem.scales``).
    """

    x: Floats
    y: Floats
    labels: tuple[str, ...]
    outer: tuple[tuple[int, ...], ...]
    part: int = 0

    def leaves(self, members: Iterable[str]) -> list[int]:
        """The slots of units with no inner units here."""
        holding = {place for places in self.outer for place in places}
        return [place for place, label in enumerate(self.labels) if label in members and place not in holding]

    def at(self, label: str, unit: int, other: int) -> Term:
        """The term with one unit of each model taken, where its space stands in the term."""
        if label not in self.labels:
            return self
        slot = self.labels.index(label)
        rest = [place for place in range(len(self.labels)) if place != slot]
        return self._keep(self.x[one_of((slot, unit))], self.y[one_of((slot, other))], rest)

    def features_of(self, slot: int, members: Iterable[str], perms: Mapping[str, Positions]) -> Term:
        """The term seen by the units at ``slot``: all that is not inside them becomes features.

        Features that still lack a permutation are sorted by value: what is left of them whatever their order.
        """
        inside = {slot, *(place for place, outers in enumerate(self.outer) if slot in outers)}
        kept = sorted(inside.union(*(self.outer[place] for place in inside)))
        rest = [place for place in range(len(self.labels)) if place not in kept]
        moving = [place for place in rest if self.labels[place] in members]
        known = all(self.labels[place] in perms for place in moving)
        order = (*kept, *(place for place in rest if place not in moving), len(self.labels), *moving)
        sizes = tuple(self.x.shape[place] for place in kept)
        shape = (*sizes, -1, math.prod(self.x.shape[place] for place in moving))
        sides = (self.x, self.aligned(perms, moving) if known else self.y)
        x, y = (side.transpose(order).reshape(shape) for side in sides)
        if not known:
            x, y = np.sort(x, axis=-1), np.sort(y, axis=-1)
        return self._keep(x.reshape(*sizes, -1), y.reshape(*sizes, -1), kept)

    def moving(self, perms: Mapping[str, Positions]) -> list[int]:
        """The slots of spaces that ``perms`` moves."""
        return [place for place, label in enumerate(self.labels) if label in perms]

    def aligned(self, perms: Mapping[str, Positions], places: Iterable[int]) -> Floats:
        """The other model's side with the units at some slots brought to the first model's order."""
        grid = np.ix_(*(np.arange(size) for size in self.x.shape[:-1]))
        sources = list(grid)
        for place in places:
            sources[place] = perms[self.labels[place]][tuple(grid[each] for each in (*self.outer[place], place))]
        return self.y[tuple(sources)]

    def turned(self) -> Term:
        """The term with the models in each other's place."""
        return replace(self, x=self.y, y=self.x)

    def _keep(self, x: Floats, y: Floats, kept: Sequence[int]) -> Term:
        places = {old: new for new, old in enumerate(kept)}
        outer = tuple(tuple(places[each] for each in self.outer[old] if each in places) for old in kept)
        return Term(x, y, tuple(self.labels[old] for old in kept), outer, self.part)


@dataclass(frozen=True, slots=True, eq=False)
class GroupProblem:
    """The similarities of one group, or of what is left of it when pairs of outer units have been fixed.

    For each space: ``outers``, the outer spaces still open; ``similarity`` [*outers, size, *outers, size] between
    units of the first model and of the other; ``scales``, what a product of weights in a linked term is multiplied by
    to count as similarity, one factor for a unit of each model: [parts, *outers, size] and [*outers, size]. ``once``: a
    term that several spaces share counts once in a pair's score (so that scores add up to the inner product of the
    models), not once for each. There is one part, unless several models in one order stand together in the place of
    the first (``together``).
    """

    outers: Mapping[str, tuple[str, ...]]
    similarity: Mapping[str, Floats]
    scales: Mapping[str, tuple[Floats, Floats]]
    terms: tuple[Term, ...] = ()
    once: bool = False

    def at(self, outer: str, unit: int, other: int) -> GroupProblem:
        """What is left when unit ``other`` of the other model goes to ``unit`` of the first."""
        outers, similarity, scales = {}, {}, {}
        for space, names in self.outers.items():
            if space == outer:
                continue
            if outer not in names:
                outers[space], similarity[space], scales[space] = names, self.similarity[space], self.scales[space]
                continue
            place = names.index(outer)
            outers[space] = (*names[:place], *names[place + 1 :])
            similarity[space] = self.similarity[space][one_of((place, unit), (len(names) + 1 + place, other))]
            rows, columns = self.scales[space]
            scales[space] = rows[one_of((place + 1, unit))], columns[one_of((place, other))]
        terms = tuple(term.at(outer, unit, other) for term in self.terms)
        return GroupProblem(outers, similarity, scales, terms, self.once)

    def sources(self, space: str, perms: Mapping[str, Positions]) -> tuple[Positions, ...]:
        """Where each unit [*outers, size] comes from in the other model."""
        names = (*self.outers[space], space)
        grid = dict(zip(names, np.ix_(*(np.arange(size) for size in self.scales[space][1].shape)), strict=True))
        return tuple(
            perms[name][tuple(grid[each] for each in (*self.outers[name], name))] if name in perms else grid[name]
            for name in names
        )

    def turned(self) -> GroupProblem:
        """The problem with the models in each other's place; of one part only."""
        similarity = {
            space: each.transpose(*range(each.ndim // 2, each.ndim), *range(each.ndim // 2))
            for space, each in self.similarity.items()
        }
        scales = {space: (columns[None], rows[0]) for space, (rows, columns) in self.scales.items()}
        return replace(self, similarity=similarity, scales=scales, terms=tuple(term.turned() for term in self.terms))

    def brought(self, perms: Mapping[str, Positions]) -> GroupProblem:
        """The problem with the first model's units in the order to which ``perms`` lead; of one part only."""
        similarity, scales = {}, {}
        for space, (rows, columns) in self.scales.items():
            sources = self.sources(space, perms)
            similarity[space] = self.similarity[space][sources]
            scales[space] = rows[0][sources][None], columns
        terms = tuple(replace(term, x=term.turned().aligned(perms, term.moving(perms))) for term in self.terms)
        return replace(self, similarity=similarity, scales=scales, terms=terms)


def together(problems: Sequence[GroupProblem]) -> GroupProblem:
    """Several models in one order, each compared with the same other one: the similarities add up."""
    first = problems[0]
    similarity = {
        space: sum(each.similarity[space] for each in problems[1:]) + own for space, own in first.similarity.items()
    }
    scales = {
        space: (np.concatenate([each.scales[space][0] for each in problems]), columns)
        for space, (_, columns) in first.scales.items()
    }
    terms = tuple(replace(term, part=part) for part, each in enumerate(problems) for term in each.terms)
    return replace(first, similarity=similarity, scales=scales, terms=terms)


def one_of(*picks: tuple[int, int]) -> tuple[slice | int, ...]:
    """An index that takes one position on each (axis, position) and everything on the other axes."""
    index: list[slice | int] = [slice(None)] * (picks[-1][0] + 1)
    for axis, position in picks:
        index[axis] = position
    return tuple(index)
