from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from onnxmerge.matching import sweeps
from onnxmerge.matching.cache import CachedWeights
from onnxmerge.matching.objective import ObjectiveFunction, measure
from onnxmerge.matching.similarity import Objective, PairOfModels, weight_shares
from onnxmerge.units.groups import Group, make_plan
from onnxmerge.units.permutations import Permutations, identity, random_permutations
from tests.crossed import crossed
from tests.matching.structures import STRUCTURES, mlp, random_weights
from tests.matching.test_cache import Counted

LINEARISED = {"group_norm", "recurrent"}
"""Structures with a space on two axes of one tensor: a step there is not bound to improve."""


def unrelated(structure: str, objective: Objective) -> PairOfModels:
    """Two random models that have nothing to do with each other."""
    typed = STRUCTURES[structure]()
    plan = make_plan(typed)
    weights = random_weights(typed, 1), random_weights(typed, 2)
    return PairOfModels(plan, *weights, {}, weight_shares(plan, 1.0, {}), objective)


@pytest.mark.parametrize(("structure", "seed"), crossed(sorted(STRUCTURES.keys() - LINEARISED), range(3), every=3))
def test_no_step_lowers_the_inner_product(structure: str, seed: int) -> None:
    pair = unrelated(structure, "inner")
    perms = random_permutations(pair.plan.spaces, seed)
    before = measure(pair, perms).total
    rng = np.random.default_rng(seed)
    for root in rng.choice(list(pair.plan.groups), 12).tolist():
        perms |= sweeps._improve(pair, pair.plan.groups[root], perms)
        after = measure(pair, perms).total
        assert after >= before - 1e-9
        before = after


@pytest.mark.parametrize("objective", ["inner", "correlation"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_keeps_the_best_sweep(structure: str, objective: Objective) -> None:
    pair = unrelated(structure, objective)
    start = random_permutations(pair.plan.spaces, 4)
    roots = pair.plan.groups.keys()
    found = sweeps.sweep(ObjectiveFunction(pair), start, roots, rng=np.random.default_rng(0), max_sweeps=50)
    assert found.converged
    assert len(found.objective) == len(found.changed) + 1
    assert found.similarity.total == max(found.objective)
    assert measure(pair, found.matching).total == pytest.approx(max(found.objective))
    assert found.objective[0] == pytest.approx(measure(pair, start).total)


def test_stops_at_the_limit_and_says_so() -> None:
    pair = unrelated("mlp", "correlation")
    found = sweeps.sweep(
        ObjectiveFunction(pair),
        identity(pair.plan.spaces),
        pair.plan.groups,
        rng=np.random.default_rng(0),
        max_sweeps=1,
    )
    assert len(found.changed) == 1
    assert not found.converged


def test_is_deterministic_under_the_seed() -> None:
    pair = unrelated("three_levels", "correlation")
    one, two = (
        sweeps.sweep(
            ObjectiveFunction(pair),
            identity(pair.plan.spaces),
            pair.plan.groups,
            rng=np.random.default_rng(7),
            max_sweeps=9,
        )
        for _ in range(2)
    )
    assert one.objective == two.objective
    for name, perm in one.matching.items():
        np.testing.assert_array_equal(perm, two.matching[name])


def test_does_not_change_the_permutations_given() -> None:
    pair = unrelated("mlp", "correlation")
    start = identity(pair.plan.spaces)
    sweeps.sweep(ObjectiveFunction(pair), start, pair.plan.groups, rng=np.random.default_rng(7), max_sweeps=9)
    for name, perm in identity(pair.plan.spaces).items():
        np.testing.assert_array_equal(start[name], perm)


def test_a_group_is_solved_again_only_when_a_neighbour_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = unrelated("batch_norm", "correlation")
    solved: Counter[str] = Counter()
    improve = sweeps._improve

    def counting(pair: PairOfModels, group: Group, perms: Permutations) -> Permutations:
        solved[group.root] += 1
        return improve(pair, group, perms)

    monkeypatch.setattr(sweeps, "_improve", counting)
    found = sweeps.sweep(
        ObjectiveFunction(pair), identity(pair.plan.spaces), ["i"], rng=np.random.default_rng(0), max_sweeps=9
    )
    assert solved == {"i": 1}
    assert found.changed[1:] == (0,)


def test_reads_each_initializer_a_bounded_number_of_times() -> None:
    """Without a cache: for each sweep, once for every group in the tensor, and once to measure."""
    pair = unrelated("mlp", "correlation")
    source = Counted(dict(pair.other))
    pair = replace(pair, other=CachedWeights(source, 0))
    found = sweeps.sweep(
        ObjectiveFunction(pair),
        identity(pair.plan.spaces),
        pair.plan.groups,
        rng=np.random.default_rng(0),
        max_sweeps=2,
    )
    assert len(found.changed) == 2
    assert source.reads.keys() == mlp().initializers.keys()
    assert max(source.reads.values()) == source.reads["w2"] <= 1 + 2 * (2 + 1)
