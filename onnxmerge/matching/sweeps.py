"""Sweeps over the groups until nothing improves, and what a step is when one model is matched to the first.

Algorithm 1 of Xu et al., Training-Free Pretrained Model Merging (CVPR 2024, arXiv 2403.01753): an initial matching by
activations, then each group in turn, in random order, by S = alpha W + (1 - alpha) A with W under the current
matching of its neighbours. With alpha = 1 and inner products this is the coordinate ascent of Git Re-Basin (Ainsworth
et al., ICLR 2023, arXiv 2209.04836): no step lowers the inner product of the models, but for spaces that stand on two
axes of one tensor, whose step is linearised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from onnxmerge.matching.objective import ModelSimilarity, ObjectiveFunction
from onnxmerge.matching.signatures import alike, find_each_other, signatures
from onnxmerge.matching.similarity import PairOfModels, group_problem
from onnxmerge.matching.structured import score, solve
from onnxmerge.threads import Piece, at_once
from onnxmerge.types import Positions
from onnxmerge.units.groups import Group, inward
from onnxmerge.units.permutations import Permutations, composite_shape, identity

if TYPE_CHECKING:
    import networkx as nx

Matching = TypeVar("Matching")

TOLERANCE = 1e-9
"""A gain below this share of the objective is rounding."""

MATRICES = 4
"""Matrices of all units of a group that its improvement holds: products, similarities, costs, two of float32."""


@dataclass(frozen=True, slots=True)
class Sweeps(Generic[Matching]):
    """The best matching that was met, and how the search went.

    ``objective[0]`` is before the first sweep (after the initial matching by activations), ``objective[i]`` after the
    i-th; ``changed`` counts the units that found another partner in each sweep. ``converged``: the last sweep did not
    improve the objective, or changed nothing.
    """

    matching: Matching
    similarity: ModelSimilarity
    objective: tuple[float, ...]
    changed: tuple[int, ...]
    converged: bool


def by_activations(pair: PairOfModels) -> Permutations:
    """One pass with activations alone; weights only where no activations were seen."""
    alone = replace(pair, alphas={name: float(alpha == 1.0) for name, alpha in pair.alphas.items()})
    perms, groups = identity(pair.plan.spaces), pair.plan.groups
    seen = [root for root, group in groups.items() if not any(alone.alphas[name] for name in group.members)]
    for found in _improved(alone, seen, perms).values():  # none depends on another
        perms |= found
    for root, group in groups.items():
        if root not in seen:
            perms |= _improve(alone, group, perms)
    return perms


def by_signatures(pair: PairOfModels) -> Permutations | None:
    """One pass with what weights say of a unit whatever the order of all others (see ``signatures``).

    None where that does not tell the units of these models apart: they were trained apart.
    """
    one, other = signatures(pair.plan, pair.first), signatures(pair.plan, pair.other)
    seen = {name: alike(one[name], other[name]) for name in pair.alphas}
    if not find_each_other(one, seen):
        return None
    return by_activations(replace(pair, activations=seen, alphas=dict.fromkeys(pair.alphas, 0.0)))


def by_weights(pair: PairOfModels) -> Permutations:
    """One pass with weights alone, from the inputs and the outputs inward.

    A group whose features come in an arbitrary order would be matched at random, and its neighbours by that: two units
    that fixed ones tell apart, such as the coordinates that a position bias reads, are outweighed by 512 that do not.
    """
    perms = identity(pair.plan.spaces)
    for group in inward(pair.plan):
        perms |= _improve(pair, group, perms)
    return perms


def sweep(
    objective_of: ObjectiveFunction,
    perms: Permutations,
    roots: Collection[str],
    *,
    rng: np.random.Generator,
    max_sweeps: int,
) -> Sweeps[Permutations]:
    """Improve ``perms`` of the objective's pair by sweeps over the groups ``roots``."""
    pair = objective_of.pair

    def improve(current: Permutations, apart: Sequence[str]) -> tuple[Permutations, dict[str, int]]:
        after, moved = dict(current), dict[str, int]()
        for root, found in _improved(pair, apart, current).items():
            after |= found
            moved[root] = sum(int((found[name] != current[name]).sum()) for name in found)
        return after, moved

    return climb(
        perms,
        objective_of,
        improve,
        pair.plan.graph,
        roots,
        rng=rng,
        max_sweeps=max_sweeps,
    )


def climb(
    start: Matching,
    similarity_of: Callable[[Matching], ModelSimilarity],
    improve: Callable[[Matching, Sequence[str]], tuple[Matching, Mapping[str, int]]],
    graph: nx.Graph[str],
    roots: Collection[str],
    *,
    rng: np.random.Generator,
    max_sweeps: int,
) -> Sweeps[Matching]:
    """Let ``improve`` take each of the groups ``roots`` in turn, in random order, until a sweep improves nothing.

    ``improve`` takes groups of which none is another's neighbour in the ``graph``, so that their order says nothing,
    and returns a matching and how many units of each group it moved; a group is not taken again unless one of its
    neighbours moved. Stops at the first sweep that does not improve the objective, and returns the best matching met.
    """
    matching = start
    best, similarity = start, similarity_of(start)
    objective = [similarity.total]
    changed: list[int] = []
    waiting, converged = set(roots), not roots
    while not converged and len(changed) < max_sweeps:
        moved, order = 0, rng.permutation(sorted(roots)).tolist()
        while order:
            apart, order = _first_apart(order, waiting, graph)
            waiting.difference_update(apart)
            matching, units = improve(matching, apart)
            for root in apart:
                moved += units[root]
                if units[root]:
                    waiting.update(other for other in graph[root] if other in roots)
        changed.append(moved)
        if not moved:
            objective.append(objective[-1])
            converged = True
            continue
        now = similarity_of(matching)
        objective.append(now.total)
        converged = now.total <= similarity.total + TOLERANCE * abs(similarity.total)
        if now.total > similarity.total:
            best, similarity = matching, now
    return Sweeps(best, similarity, tuple(objective), tuple(changed), converged)


def _first_apart(order: Sequence[str], waiting: Collection[str], graph: nx.Graph[str]) -> tuple[list[str], list[str]]:
    """The groups that come first or whose turn does not depend on those before, and the others that are left.

    To take groups so is to take them in their order: whom a neighbour comes before waits for it.
    """
    apart, left, behind = list[str](), list[str](), set[str]()
    for root in order:
        if root in behind:
            left.append(root)
        elif root in waiting:
            apart.append(root)
        else:
            continue
        behind.update(graph[root])
    return apart, left


def one_by_one(
    improve: Callable[[Matching, str], tuple[Matching, int]],
) -> Callable[[Matching, Sequence[str]], tuple[Matching, dict[str, int]]]:
    """What ``climb`` calls, of what improves a single group."""

    def improved(matching: Matching, apart: Sequence[str]) -> tuple[Matching, dict[str, int]]:
        moved: dict[str, int] = {}
        for root in apart:
            matching, moved[root] = improve(matching, root)
        return matching, moved

    return improved


def _improved(pair: PairOfModels, roots: Sequence[str], perms: Mapping[str, Positions]) -> dict[str, Permutations]:
    """Better permutations of groups none of which depends on another, as ``_improve``."""
    groups = pair.plan.groups
    sizes = {
        root: sum(math.prod(composite_shape(name, pair.plan.spaces)) ** 2 for name in groups[root].members)
        for root in roots
    }
    pieces = [Piece(root, MATRICES * 8 * sizes[root]) for root in roots]
    found = at_once(lambda root: _improve(pair, groups[root], perms), pieces)
    return {root: found[root] for root in roots}


def _improve(pair: PairOfModels, group: Group, perms: Mapping[str, Positions]) -> Permutations:
    """Better permutations of a group's spaces, or none where the current ones are as good: equals do not take turns."""
    problem = group_problem(pair, group, perms)
    current = {name: perms[name] for name in group.members}
    _, found = solve(group.root, problem, group.children, current)
    before, after = score(problem, current), score(problem, found)
    return found if after > before + TOLERANCE * max(abs(before), abs(after)) else {}
