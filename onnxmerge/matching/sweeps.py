"""Match one model to the first: sweeps over the groups until nothing improves.

Algorithm 1 of Xu et al., Training-Free Pretrained Model Merging (CVPR 2024, arXiv 2403.01753): an initial matching by
activations, then each group in turn, in random order, by S = alpha W + (1 - alpha) A with W under the current
matching of its neighbours. With alpha = 1 and inner products this is the coordinate ascent of Git Re-Basin (Ainsworth
et al., ICLR 2023, arXiv 2209.04836): no step lowers the inner product of the models, but for spaces that stand on two
axes of one tensor, whose step is linearised.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnxmerge.axes.layout import Positions
from onnxmerge.matching.objective import Likeness, measure
from onnxmerge.matching.plan import Group
from onnxmerge.matching.similarity import PairOfModels, group_problem
from onnxmerge.matching.structured import score, solve
from onnxmerge.merging.transport import Permutations, identity

TOLERANCE = 1e-9
"""A gain below this share of the objective is rounding."""


@dataclass(frozen=True, slots=True)
class Sweeps:
    """The best matching that was met, and how the search went.

    ``objective[0]`` is before the first sweep (after the initial matching by activations), ``objective[i]`` after the
    i-th; ``changed`` counts the units that found another partner in each sweep. ``converged``: the last sweep did not
    improve the objective, or changed nothing.
    """

    permutations: Permutations
    likeness: Likeness
    objective: tuple[float, ...]
    changed: tuple[int, ...]
    converged: bool


def by_activations(pair: PairOfModels) -> Permutations:
    """One pass with activations alone; weights only where no activations were seen."""
    alone = replace(pair, alphas={name: float(alpha == 1.0) for name, alpha in pair.alphas.items()})
    perms = identity(pair.plan.spaces)
    for group in pair.plan.groups.values():
        perms |= _improve(alone, group, perms)
    return perms


def sweep(
    pair: PairOfModels, perms: Permutations, roots: Collection[str], *, rng: np.random.Generator, max_sweeps: int
) -> Sweeps:
    """Improve ``perms`` by sweeps over the groups ``roots``. A group whose neighbours did not move is not solved again.

    Stops at the first sweep that does not improve the objective, and returns the best matching met.
    """
    perms = dict(perms)
    best, likeness = dict(perms), measure(pair, perms)
    objective = [likeness.total]
    changed: list[int] = []
    waiting, converged = set(roots), not roots
    while not converged and len(changed) < max_sweeps:
        moved = 0
        for root in rng.permutation(sorted(roots)).tolist():
            if root not in waiting:
                continue
            waiting.discard(root)
            found = _improve(pair, pair.plan.groups[root], perms)
            if found:
                moved += sum(int((found[name] != perms[name]).sum()) for name in found)
                perms |= found
                waiting |= {other for other in roots if root in pair.plan.groups[other].neighbours}
        changed.append(moved)
        if not moved:
            objective.append(objective[-1])
            converged = True
            continue
        now = measure(pair, perms)
        objective.append(now.total)
        converged = now.total <= likeness.total + TOLERANCE * abs(likeness.total)
        if now.total > likeness.total:
            best, likeness = dict(perms), now
    return Sweeps(best, likeness, tuple(objective), tuple(changed), converged)


def _improve(pair: PairOfModels, group: Group, perms: Mapping[str, Positions]) -> Permutations:
    """Better permutations of a group's spaces, or none where the current ones are as good: equals do not take turns."""
    problem = group_problem(pair, group, perms)
    current = {name: perms[name] for name in group.members}
    _, found = solve(group.root, problem, group.children, current)
    before, after = score(problem, current), score(problem, found)
    return found if after > before + TOLERANCE * max(abs(before), abs(after)) else {}
