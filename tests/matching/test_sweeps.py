from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmerge import threads
from onnxmerge.matching import sweeps
from onnxmerge.matching.cache import CachedWeights
from onnxmerge.matching.objective import ModelSimilarity, ObjectiveFunction, measure
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


@given(
    edges=st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12),
    start=st.integers(0, 2**14 - 1),
    seed=st.integers(0, 99),
)
def test_groups_that_are_taken_at_once_are_taken_in_their_order(
    edges: set[tuple[int, int]], start: int, seed: int
) -> None:
    """Each group's step depends on its neighbours' state; taken together or one by one, all end alike."""
    roots = [f"p{index}" for index in range(7)]
    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(roots)
    graph.add_edges_from((f"p{one}", f"p{other}") for one, other in edges)
    begin = {root: start >> (2 * index) & 3 for index, root in enumerate(roots)}

    def step(state: dict[str, int], root: str) -> int:
        return (state[root] + 2 * sum(state[other] for other in graph[root]) + len(root)) % 5

    def search(*, together: bool) -> list[dict[str, int]]:
        met = [begin]

        def improve(state: dict[str, int], apart: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
            assert not any(one != other and graph.has_edge(one, other) for one in apart for other in apart)
            found = {root: step(state, root) for root in apart}
            return {**state, **found}, {root: int(found[root] != state[root]) for root in apart}

        def similarity(state: dict[str, int]) -> ModelSimilarity:
            met.append(state)
            return ModelSimilarity(float(len(met)), {})

        def in_order(
            order: Sequence[str], waiting: Collection[str], _graph: nx.Graph[str]
        ) -> tuple[list[str], list[str]]:
            first = [index for index, root in enumerate(order) if root in waiting][:1]
            return [order[index] for index in first], list(order[first[0] + 1 :]) if first else []

        with pytest.MonkeyPatch.context() as patch:
            if not together:
                patch.setattr(sweeps, "_first_apart", in_order)
            sweeps.climb(begin, similarity, improve, graph, roots, rng=np.random.default_rng(seed), max_sweeps=4)
        return met

    assert search(together=True) == search(together=False)


def test_threads_find_what_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    def matched() -> tuple[Permutations, tuple[float, ...]]:
        pair = unrelated("mlp", "inner")
        start = random_permutations(pair.plan.spaces, 4)
        roots = pair.plan.groups.keys()
        found = sweeps.sweep(ObjectiveFunction(pair), start, roots, rng=np.random.default_rng(0), max_sweeps=9)
        return found.matching, found.objective

    alone = matched()
    monkeypatch.setattr(threads, "SMALL_BYTES", 0)
    together = matched()
    assert alone[1] == together[1]
    for name, perm in alone[0].items():
        np.testing.assert_array_equal(together[0][name], perm)
