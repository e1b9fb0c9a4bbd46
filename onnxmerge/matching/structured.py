"""Solve one group inside out: an outer space together with everything that varies with it.

For every pair (outer unit of the first model, outer unit of the other) the inner spaces are assigned, which gives
the pair's score; the outer units are assigned on the scores, and the inner assignments of the chosen pairs are kept.
What is fixed to a pair is again such a problem, one level smaller, so any nesting is solved by recursion.

Where two inner spaces share a block (a grouped convolution's inputs and outputs), each one's similarity depends on
the other's assignment. They are assigned in turn, for each pair of outer units by itself, until they agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxmerge.matching.assignment import assign
from onnxmerge.matching.problem import GroupProblem, one_of
from onnxmerge.types import Floats, Positions
from onnxmerge.units.permutations import Permutations

Tree = Mapping[str, Sequence[str]]

ROUNDS = 8
"""Linked inner spaces are assigned in turn at most this often; two or three rounds are the rule."""


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
    if not problem.terms and all(problem.outers[child] == (space,) and not tree[child] for child in tree[space]):
        return _solve_two_levels(space, problem, tree[space])
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


def _solve_two_levels(space: str, problem: GroupProblem, children: Sequence[str]) -> tuple[float, Permutations]:
    """Solve a space and those directly inside it, which depend on nothing else: the inner ones of all pairs at once."""
    scores = problem.similarity[space].copy()
    inner: Permutations = {}
    for child in children:
        similarity = problem.similarity[child].transpose(0, 2, 1, 3)
        inner[child] = assign(similarity, child)
        scores += np.take_along_axis(similarity, inner[child][..., None], axis=-1).sum(axis=(-2, -1))
    found = assign(scores, space)
    units = np.arange(len(found))
    return float(scores[units, found].sum()), {space: found, **{name: own[units, found] for name, own in inner.items()}}


def score(problem: GroupProblem, perms: Mapping[str, Positions]) -> float:
    """The score of given permutations of all spaces of the problem."""
    total = 0.0
    for space, similarity in problem.similarity.items():
        sources = problem.sources(space, perms)
        grid = np.ix_(*(np.arange(size) for size in problem.scales[space][1].shape))
        total += float(similarity[(*grid, *sources)].sum())
    for term in problem.terms:
        products = (term.x * term.aligned(perms, term.moving(perms))).sum(axis=-1)
        leaves = term.leaves(problem.similarity)
        for leaf in leaves:
            rows, columns = problem.scales[term.labels[leaf]]
            chain = (*term.outer[leaf], leaf)
            others = tuple(place for place in range(len(term.labels)) if place not in chain)
            units = _in_order(products.sum(axis=others), chain)
            value = float((units * rows[term.part] * columns[problem.sources(term.labels[leaf], perms)]).sum())
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
            x, y = (_in_order(side, (*chain, len(chain))).reshape(columns.size, -1) for side in (seen.x, seen.y))
            products = rows[seen.part].reshape(-1, 1) * (x @ y.T) * columns.reshape(1, -1)
            similarity[name] = similarity[name] + products.reshape(similarity[name].shape)
    outers = {name: problem.outers[name] for name in inside}
    return replace(problem, outers=outers, similarity=similarity, terms=tuple(terms))


def _subtree(space: str, tree: Tree) -> list[str]:
    return [space, *(name for child in tree[space] for name in _subtree(child, tree))]


def _in_order(array: Floats, order: Sequence[int]) -> Floats:
    """Transpose axes that stand in ascending order of their labels into the order given."""
    ranks = {label: rank for rank, label in enumerate(sorted(order))}
    return array.transpose([ranks[label] for label in order])


def _restrict(perms: Mapping[str, Positions], problem: GroupProblem, outer: str, unit: int) -> Permutations:
    """The permutations at one index of an outer space."""
    return {
        name: perm[one_of((problem.outers[name].index(outer), unit))]
        for name, perm in perms.items()
        if outer in problem.outers[name]
    }


def _stack(parts: Sequence[Mapping[str, Positions]], problem: GroupProblem, outer: str) -> Permutations:
    """The inverse of ``_restrict``: put the permutations found at each index of an outer space together."""
    return {name: np.stack([part[name] for part in parts], axis=problem.outers[name].index(outer)) for name in parts[0]}
