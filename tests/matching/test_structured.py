from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest

from onnxmerge.matching.problem import GroupProblem, Term
from onnxmerge.matching.similarity import Objective, PairOfModels, group_problem, weight_shares
from onnxmerge.matching.structured import score, solve
from onnxmerge.units.groups import make_plan
from onnxmerge.units.permutations import identity, random_permutations
from tests.matching.structures import STRUCTURES, random_weights


def heads(seed: int) -> GroupProblem:
    rng = np.random.default_rng(seed)
    shapes = {"h": (3,), "d": (3, 2), "e": (3, 3)}
    return GroupProblem(
        {"h": (), "d": ("h",), "e": ("h",)},
        {name: rng.standard_normal(shape + shape) for name, shape in shapes.items()},
        {name: (np.ones((1, *shape)), np.ones(shape)) for name, shape in shapes.items()},
    )


def test_heads_are_solved_exactly() -> None:
    """Against all 3! outer permutations, with the best of all inner ones for each pair."""
    tree = {"h": ("d", "e"), "d": (), "e": ()}
    for seed in range(5):
        problem = heads(seed)
        value, found = solve("h", problem, tree, {})

        def best_inner(name: str, pair: tuple[int, int], problem: GroupProblem = problem) -> float:
            block = problem.similarity[name][pair[0], :, pair[1], :]
            units = range(len(block))
            return max(float(block[units, perm].sum()) for perm in permutations(units))

        inner = [[best_inner("d", (h, g)) + best_inner("e", (h, g)) for g in range(3)] for h in range(3)]
        scores = np.array(inner) + problem.similarity["h"]
        best = max(float(scores[range(3), outer].sum()) for outer in permutations(range(3)))
        assert value == pytest.approx(best)
        assert score(problem, found) == pytest.approx(best)


def test_linked_inner_spaces_find_the_best_pairing() -> None:
    """Two inner spaces that only a shared block tells apart, once one unit of each is known."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 4, 3, 6))
    rows, columns = np.array([2, 0, 3, 1]), np.array([1, 2, 0])
    y = np.empty_like(x)
    y[0, rows[:, None], columns] = x[0]
    hint = np.zeros((1, 4, 1, 4))
    hint[0, 0, 0, 2] = 0.1
    shapes = {"g": (1,), "o": (1, 4), "i": (1, 3)}
    problem = GroupProblem(
        {"g": (), "o": ("g",), "i": ("g",)},
        {"g": np.zeros((1, 1)), "o": hint, "i": np.zeros((1, 3, 1, 3))},
        {name: (np.ones((1, *shape)), np.ones(shape)) for name, shape in shapes.items()},
        (Term(x, y, ("g", "o", "i"), ((), (0,), (0,))),),
        once=True,
    )
    tree = {"g": ("o", "i"), "o": (), "i": ()}
    value, found = solve("g", problem, tree, {})
    every = product(permutations(range(4)), permutations(range(3)))
    best = max(float((x[0] * y[0][np.array(o)[:, None], np.array(i)]).sum() + 0.1 * (o[0] == 2)) for o, i in every)
    assert value == pytest.approx(best)
    np.testing.assert_array_equal(found["o"], [rows])
    np.testing.assert_array_equal(found["i"], [columns])


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("objective", ["inner", "correlation"])
def test_the_score_of_the_solution_is_the_score_reported(structure: str, objective: Objective) -> None:
    typed = STRUCTURES[structure]()
    plan = make_plan(typed)
    perms = random_permutations(plan.spaces, 5)
    pair = PairOfModels(plan, random_weights(typed, 1), random_weights(typed, 2), {}, weight_shares(plan, 1.0, {}))
    pair = replace(pair, objective=objective)
    for group in plan.groups.values():
        problem = group_problem(pair, group, perms)
        current = {name: perms[name] for name in group.members}
        value, found = solve(group.root, problem, group.children, current)
        assert found.keys() == set(group.members)
        for name, perm in found.items():
            assert perm.shape == perms[name].shape
            np.testing.assert_array_equal(np.sort(perm, axis=-1), identity(plan.spaces)[name])
        assert score(problem, found) == pytest.approx(value)
        assert value >= score(problem, current) - 1e-9


@pytest.mark.parametrize("structure", ["grouped_convolution", "three_levels"])
def test_linked_spaces_never_get_worse_than_their_start(structure: str) -> None:
    typed = STRUCTURES[structure]()
    plan = make_plan(typed)
    group = plan.groups["g"]
    pair = PairOfModels(plan, random_weights(typed, 1), random_weights(typed, 2), {}, weight_shares(plan, 1.0, {}))
    pair = replace(pair, objective="inner")
    for seed in range(5):
        perms = random_permutations(plan.spaces, seed)
        problem = group_problem(pair, group, perms)
        current = {name: perms[name] for name in group.members}
        for _ in range(3):
            value, found = solve("g", problem, group.children, current)
            assert value >= score(problem, current) - 1e-9
            current = found
