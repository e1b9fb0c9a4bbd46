"""Match many models at once, each to a universe of units that none of them owns.

Every model m has permutations P_m to the universe; of model q to model m it is then P_q followed by the inverse of P_m,
so that matchings are consistent along every cycle of models, by construction. What is maximised is the similarity of
all pairs of models in the universe, sum over q < m of S(P_q, P_m), as in C2M3 (Crisostomi et al., NeurIPS 2024, arXiv
2405.17897).

C2M3 climbs by Frank-Wolfe over doubly stochastic matrices and hardens them at the end. Here it is coordinate ascent
over permutations instead: given all other models in the universe, the best P_m of a group is one assignment on the sum
of its similarities to them, exact. There is nothing to harden and no step size, no step lowers the objective (but for
spaces that stand on two axes of one tensor), and structured groups are solved inside out as everywhere else.

Nothing depends on the order of the models but the names, the order of units in which the result is written, and
rounding. Each pair of models is matched by itself, and the model that is most similar to all others gives the first
universe. From there groups are taken in random order, and in each the model that gains most moves, until none gains.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from onnxmerge.matching.problem import GroupProblem, together
from onnxmerge.matching.structured import score, solve
from onnxmerge.matching.sweeps import TOLERANCE, Sweeps, climb, one_by_one
from onnxmerge.matching.universe import ModelsToJoin, Universe, model_similarity, problem_of_pair
from onnxmerge.units.groups import Group
from onnxmerge.units.permutations import Permutations

TURNS = 8
"""A group's visit ends after so many moves a model: it has converged long before, or it stands on two axes."""


def joint_sweep(
    models: ModelsToJoin, start: Universe, roots: Collection[str], *, rng: np.random.Generator, max_sweeps: int
) -> Sweeps[Universe]:
    """Improve a universe by sweeps over the groups ``roots``."""
    groups = models.plan.groups
    return climb(
        start,
        lambda universe: model_similarity(models, universe),
        one_by_one(lambda universe, root: improve(models, groups[root], universe)),
        models.plan.graph,
        roots,
        rng=rng,
        max_sweeps=max_sweeps,
    )


def improve(models: ModelsToJoin, group: Group, universe: Universe) -> tuple[Universe, int]:
    """Let the model that gains most by it move its units of one group, until none gains: (universe, units moved)."""
    problems: dict[tuple[int, int], GroupProblem] = {}
    moved, last = 0, -1
    for _ in range(TURNS * len(universe)):
        if not problems or models.plan.moves_itself(group):  # what it is compared by has moved with it
            problems = {pair: problem_of_pair(models, group, universe, *pair) for pair in models.pairs}
        steps = [_step(problems, group, universe, model) for model in models.all if model != last]
        best = max(steps, key=lambda step: step.gain)
        if best.gain <= 0.0:
            break
        last, current = best.model, universe[best.model]
        moved += sum(int((found != current[name]).sum()) for name, found in best.found.items())
        universe = (*universe[:last], {**current, **best.found}, *universe[last + 1 :])
    return universe, moved


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """New permutations of one model's units, and what the objective gains by them; 0 where it is rounding."""

    model: int
    found: Permutations
    gain: float


def _step(problems: Mapping[tuple[int, int], GroupProblem], group: Group, universe: Universe, model: int) -> _Step:
    """The best place in the universe for one model's units, all other models staying where they are."""
    others = [
        (problems[other, model] if other < model else problems[model, other].turned()).brought(
            {name: universe[other][name] for name in group.members}
        )
        for other in range(len(universe))
        if other != model
    ]
    problem = together(others)
    current = {name: universe[model][name] for name in group.members}
    _, found = solve(group.root, problem, group.children, current)
    before, after = score(problem, current), score(problem, found)
    gain = after - before
    return _Step(model, found, gain if gain > TOLERANCE * max(abs(before), abs(after)) else 0.0)
