"""Solve one group inside out: an outer space together with everything that varies with it.

For every pair (outer unit of the first model, outer unit of the other) the inner spaces are assigned, which gives
the pair's score; the outer units are assigned on the scores, and the inner assignments of the chosen pairs are kept.
What is fixed to a pair is again such a problem, one level smaller, so any nesting is solved by recursion.

Where two inner spaces share a block (a grouped convolution's inputs and outputs), each one's similarity depends on
the other's assignment. They are assigned in turn, for each pair of outer units by itself, until they agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.axes.layout import Positions
from onnxmerge.matching.assignment import assign
from onnxmerge.merging.transport import Permutations

Array = NDArray[np.float64]
Tree = Mapping[str, Sequence[str]]

ROUNDS = 8
"""Linked inner spaces are assigned in turn at most this often; two or three rounds are the rule."""


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """A block that two kinds of inner units share: both models' weights [*slots, features], other axes aligned.

    ``labels`` are the spaces at the slots, ``outer`` the places of the slots that each is bound to.
    """

    x: Array
    y: Array
    labels: tuple[str, ...]
    outer: tuple[tuple[int, ...], ...]

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
        return self._keep(self.x[_at((slot, unit))], self.y[_at((slot, other))], rest)

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

    def aligned(self, perms: Mapping[str, Positions], places: Iterable[int]) -> Array:
        """The other model's side with the units at some slots brought to the first model's order."""
        grid = np.ix_(*(np.arange(size) for size in self.x.shape[:-1]))
        sources = list(grid)
        for place in places:
            sources[place] = perms[self.labels[place]][tuple(grid[each] for each in (*self.outer[place], place))]
        return self.y[tuple(sources)]

    def _keep(self, x: Array, y: Array, kept: Sequence[int]) -> Term:
        places = {old: new for new, old in enumerate(kept)}
        outer = tuple(tuple(places[each] for each in self.outer[old] if each in places) for old in kept)
        return Term(x, y, tuple(self.labels[old] for old in kept), outer)


@dataclass(frozen=True, slots=True, eq=False)
class GroupProblem:
    """The similarities of one group, or of what is left of it when pairs of outer units have been fixed.

    For each space: ``outers``, the outer spaces still open; ``similarity`` [*outers, size, *outers, size] between
    units of the first model and of the other; ``scales``, what a product of weights in a linked term is multiplied by
    to count as similarity, one factor for a unit of each model [*outers, size]. ``once``: a term that several spaces
    share counts once in a pair's score (so that scores add up to the inner product of the models), not once for each.
    """

    outers: Mapping[str, tuple[str, ...]]
    similarity: Mapping[str, Array]
    scales: Mapping[str, tuple[Array, Array]]
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
            similarity[space] = self.similarity[space][_at((place, unit), (len(names) + 1 + place, other))]
            rows, columns = self.scales[space]
            scales[space] = rows[_at((place, unit))], columns[_at((place, other))]
        terms = tuple(term.at(outer, unit, other) for term in self.terms)
        return GroupProblem(outers, similarity, scales, terms, self.once)

    def sources(self, space: str, perms: Mapping[str, Positions]) -> tuple[Positions, ...]:
        """Where each unit [*outers, size] comes from in the other model."""
        names = (*self.outers[space], space)
        grid = dict(zip(names, np.ix_(*(np.arange(size) for size in self.scales[space][0].shape)), strict=True))
        return tuple(
            perms[name][tuple(grid[each] for each in (*self.outers[name], name))] if name in perms else grid[name]
            for name in names
        )


def solve(space: str, problem: GroupProblem, tree: Tree, start: Mapping[str, Positions]) -> tuple[float, Permutations]:
    """The best score, and permutations [*open outers, size] of ``space`` and all spaces inside it.

    ``start`` may hold permutations of all of them, or be empty. Linked spaces are improved from there as well as
    from nothing, so the score (with ``once``) is at least that of ``start``.
    """
    if problem.outers[space]:
        return _solve_apart(space, problem, tree, start)
    own = problem.similarity[space]
    if not tree[space]:
        found = assign(own, space)
        return float(own[np.arange(len(own)), found].sum()), {space: found}
    scores = own.copy()
    candidates: dict[tuple[int, int], Permutations] = {}
    for pair in np.ndindex(*own.shape):
        unit, other = pair
        inner_start = _restrict(start, problem, space, unit) if start and start[space][unit] == other else {}
        value, candidates[pair] = _solve_children(tree[space], problem.at(space, unit, other), tree, inner_start)
        scores[pair] += value
    found = assign(scores, space)
    chosen = [candidates[unit, int(other)] for unit, other in enumerate(found)]
    value = float(scores[np.arange(len(found)), found].sum())
    return value, {space: found, **_stack(chosen, problem, space)}


def score(problem: GroupProblem, perms: Mapping[str, Positions]) -> float:
    """The score of given permutations of all spaces of the problem."""
    total = 0.0
    for space, similarity in problem.similarity.items():
        sources = problem.sources(space, perms)
        grid = np.ix_(*(np.arange(size) for size in problem.scales[space][0].shape))
        total += float(similarity[(*grid, *sources)].sum())
    for term in problem.terms:
        moving = [place for place, label in enumerate(term.labels) if label in perms]
        products = (term.x * term.aligned(perms, moving)).sum(axis=-1)
        leaves = term.leaves(problem.similarity)
        for leaf in leaves:
            rows, columns = problem.scales[term.labels[leaf]]
            chain = (*term.outer[leaf], leaf)
            others = tuple(place for place in range(len(term.labels)) if place not in chain)
            units = _in_order(products.sum(axis=others), chain)
            value = float((units * rows * columns[problem.sources(term.labels[leaf], perms)]).sum())
            total += value / len(leaves) if problem.once else value
    return total


def _solve_apart(
    space: str, problem: GroupProblem, tree: Tree, start: Mapping[str, Positions]
) -> tuple[float, Permutations]:
    """Solve by itself for each index of an outer space that does not move."""
    outer = problem.outers[space][0]
    parts = [
        solve(space, problem.at(outer, unit, unit), tree, _restrict(start, problem, outer, unit))
        for unit in range(problem.similarity[space].shape[0])
    ]
    return sum(value for value, _ in parts), _stack([found for _, found in parts], problem, outer)


def _solve_children(
    children: Sequence[str], problem: GroupProblem, tree: Tree, start: Mapping[str, Positions]
) -> tuple[float, Permutations]:
    """Assign the inner spaces of one pair of outer units: (score, permutations)."""
    if not problem.terms:
        parts = [solve(child, problem, tree, {}) for child in children]
        return sum(value for value, _ in parts), {name: perm for _, found in parts for name, perm in found.items()}
    found = [_take_turns(children, problem, tree, begin) for begin in ([{}, start] if start else [{}])]
    return max(found, key=lambda each: each[0])


def _take_turns(
    children: Sequence[str], problem: GroupProblem, tree: Tree, start: Mapping[str, Positions]
) -> tuple[float, Permutations]:
    """Assign linked inner spaces one after the other, each under the others' current assignment, until they agree."""
    perms = dict(start)
    for _ in range(ROUNDS):
        before = dict(perms)
        for child in children:
            inside = _subtree(child, tree)
            current = {name: perms[name] for name in inside if name in perms}
            perms |= solve(child, _seen_by(inside, problem, perms), tree, current)[1]
        if before and all(np.array_equal(before[name], perms[name]) for name in perms):
            break
    return score(problem, perms), perms


def _seen_by(inside: Sequence[str], problem: GroupProblem, perms: Mapping[str, Positions]) -> GroupProblem:
    """The problem of one inner space (and what it holds), with the linked terms under the others' assignment."""
    similarity = {name: problem.similarity[name] for name in inside}
    terms = []
    for term in problem.terms:
        for slot in (place for place, label in enumerate(term.labels) if label == inside[0]):
            seen = term.features_of(slot, problem.similarity, perms)
            leaves = seen.leaves(problem.similarity)
            if len(leaves) > 1:
                terms.append(seen)
                continue
            name = seen.labels[leaves[0]]
            rows, columns = problem.scales[name]
            chain = (*seen.outer[leaves[0]], leaves[0])
            x, y = (_in_order(side, (*chain, len(chain))).reshape(rows.size, -1) for side in (seen.x, seen.y))
            products = rows.reshape(-1, 1) * (x @ y.T) * columns.reshape(1, -1)
            similarity[name] = similarity[name] + products.reshape(similarity[name].shape)
    outers = {name: problem.outers[name] for name in inside}
    return replace(problem, outers=outers, similarity=similarity, terms=tuple(terms))


def _at(*picks: tuple[int, int]) -> tuple[slice | int, ...]:
    """An index that takes one position on each (axis, position) and everything on the other axes."""
    index: list[slice | int] = [slice(None)] * (picks[-1][0] + 1)
    for axis, position in picks:
        index[axis] = position
    return tuple(index)


def _subtree(space: str, tree: Tree) -> list[str]:
    return [space, *(name for child in tree[space] for name in _subtree(child, tree))]


def _in_order(array: Array, order: Sequence[int]) -> Array:
    """Transpose axes that stand in ascending order of their labels into the order given."""
    ranks = {label: rank for rank, label in enumerate(sorted(order))}
    return array.transpose([ranks[label] for label in order])


def _restrict(perms: Mapping[str, Positions], problem: GroupProblem, outer: str, unit: int) -> Permutations:
    """The permutations at one index of an outer space."""
    return {
        name: perm[_at((problem.outers[name].index(outer), unit))]
        for name, perm in perms.items()
        if outer in problem.outers[name]
    }


def _stack(parts: Sequence[Mapping[str, Positions]], problem: GroupProblem, outer: str) -> Permutations:
    """The inverse of ``_restrict``: put the permutations found at each index of an outer space together."""
    return {name: np.stack([part[name] for part in parts], axis=problem.outers[name].index(outer)) for name in parts[0]}
