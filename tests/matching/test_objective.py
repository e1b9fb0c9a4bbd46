from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxmerge.matching.objective import ObjectiveFunction, measure
from onnxmerge.matching.similarity import PairOfModels, group_problem, weight_shares
from onnxmerge.matching.structured import score
from onnxmerge.units.groups import make_plan
from onnxmerge.units.permutations import random_permutations, transport
from tests.matching.structures import STRUCTURES, attention, example


def pair_of(structure: str, alpha: float) -> PairOfModels:
    case = example(STRUCTURES[structure](), 1, noise=0.5)
    plan = make_plan(case.typing)
    seen = case.activations if alpha < 1.0 and structure != "depthwise_convolution" else {}
    return PairOfModels(plan, case.first, case.other, seen, weight_shares(plan, alpha, seen))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_inner_product_is_that_of_the_weights(structure: str) -> None:
    pair = replace(pair_of(structure, 1.0), objective="inner")
    typed = STRUCTURES[structure]()
    perms = random_permutations(pair.plan.spaces, 3)
    expected = 0.0
    for name, layout in typed.initializers.items():
        if name not in typed.statistics:
            aligned = transport(pair.other[name], layout, pair.plan.spaces, perms)
            expected += float((pair.first[name].astype(np.float64) * aligned).sum())
    assert measure(pair, perms).total == pytest.approx(expected)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_total_is_the_sum_of_the_groups_scores(structure: str, alpha: float) -> None:
    pair = pair_of(structure, alpha)
    perms = random_permutations(pair.plan.spaces, 3)
    expected = sum(
        score(group_problem(pair, group, perms), {name: perms[name] for name in group.members})
        for group in pair.plan.groups.values()
    )
    assert measure(pair, perms).total == pytest.approx(expected)


def test_mean_of_the_right_matching_is_one() -> None:
    case = example(attention(), 1)
    plan = make_plan(case.typing)
    for alpha in (0.0, 0.5, 1.0):
        shares = weight_shares(plan, alpha, case.activations)
        found = measure(PairOfModels(plan, case.first, case.other, case.activations, shares), case.truth)
        assert found.mean == pytest.approx({"s": 1.0, "h": 1.0, "qk": 1.0, "v": 1.0})


@pytest.mark.parametrize("structure", STRUCTURES)
def test_what_was_measured_before_changes_nothing(structure: str) -> None:
    pair = pair_of(structure, 0.3)
    objective_of, first, second = (
        ObjectiveFunction(pair),
        *(random_permutations(pair.plan.spaces, seed) for seed in (3, 4)),
    )
    mixed = {name: (first, second)[place % 2][name] for place, name in enumerate(first)}
    for perms in (first, second, mixed, first):
        assert objective_of(perms) == measure(pair, perms)
