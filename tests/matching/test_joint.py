"""Joint matching: four permuted and noisy copies of a model are recognised, whichever of them comes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.matching import method
from onnxmerge.matching.joint import improve, joint_sweep
from onnxmerge.matching.method import MatchProblem
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.matching.methods.c2m3 import METHOD, C2m3
from onnxmerge.matching.similarity import known_activations, weight_shares
from onnxmerge.matching.universe import ModelsToJoin, model_similarity, relative
from onnxmerge.units.groups import make_plan
from onnxmerge.units.layout import Typing
from onnxmerge.units.permutations import (
    Permutations,
    compose,
    composite_shape,
    composite_sources,
    identity,
    invert,
    random_permutations,
    transport,
)
from tests.crossed import crossed
from tests.matching.structures import STRUCTURES, Weights, mlp, random_weights


@pytest.fixture(autouse=True)
def few_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """These groups are so small that many random orders would be tried; two will do."""
    monkeypatch.setattr(method, "MAX_RESTARTS", 2)


@dataclass(frozen=True)
class Family:
    """Noisy copies of a model, the permutation that hides each, and the activations of all of them."""

    typing: Typing
    weights: list[Weights]
    hidden: list[Permutations]
    together: dict[str, NDArray[np.float64]]

    def problem(self, order: Sequence[int] | None = None) -> MatchProblem:
        """The models in another order."""
        chosen = range(len(self.weights)) if order is None else order
        seen = {}
        for name, similarity in self.together.items():
            units = len(similarity) // len(self.weights)
            rows = np.concatenate([model * units + np.arange(units) for model in chosen])
            seen[name] = similarity[np.ix_(rows, rows)]
        return MatchProblem(self.typing, [self.weights[model] for model in chosen], together=seen)

    def truth(self, one: int, other: int) -> Permutations:
        """What brings one model to another."""
        return compose(invert(self.hidden[other], self.typing.spaces), self.hidden[one], self.typing.spaces)


def family(structure: str, count: int = 4, noise: float = 0.3, seed: int = 3) -> Family:
    typed, rng = STRUCTURES[structure](), np.random.default_rng(seed)
    first = random_weights(typed, seed)
    hidden = [random_permutations(typed.spaces, seed + index) for index in range(count)]
    weights = [
        {
            name: transport(array + noise * rng.standard_normal(array.shape), typed.initializers[name], typed.spaces, h)
            for name, array in first.items()
        }
        for h in hidden
    ]
    outers = {outer for space in typed.spaces.values() if space.free for outer in space.varies_with}
    together = {}
    for name, space in typed.spaces.items():
        if space.free and name not in outers:
            shape = composite_shape(name, typed.spaces)
            ours = rng.standard_normal((*shape, 200))
            noisy = (ours + noise * rng.standard_normal(ours.shape) for _ in hidden)
            moved = [
                each[composite_sources(name, typed.spaces, h)].reshape(-1, 200)
                for each, h in zip(noisy, hidden, strict=True)
            ]
            together[name] = np.asarray(np.corrcoef(np.concatenate(moved)))
    return Family(typed, weights, hidden, together)


def joined(case: Family, alpha: float) -> ModelsToJoin:
    plan = make_plan(case.typing)
    known = known_activations(plan, case.together if alpha < 1 else {}, len(case.weights))
    return ModelsToJoin(plan, case.weights, known, weight_shares(plan, alpha, known))


def assert_same(found: Permutations, truth: Permutations) -> None:
    for name, perm in truth.items():
        still = np.zeros_like(perm)  # a single unit inside an outer one has no entry
        np.testing.assert_array_equal(found.get(name, still), perm, err_msg=name)


@pytest.mark.parametrize(("structure", "alpha"), crossed(STRUCTURES, [0.0, 0.5, 1.0], every=3))
def test_recovers_the_permutations_of_four_noisy_copies(structure: str, alpha: float) -> None:
    case = family(structure)
    result = METHOD(case.problem(), C2m3(alpha=alpha))
    for other, found in enumerate(result.permutations, start=1):
        assert_same(found, case.truth(0, other))
    (search,) = result.searches
    assert search.converged
    assert search.similarity_after.keys() == search.similarity_before.keys()
    assert min(search.similarity_after.values()) > 0.8


@pytest.mark.parametrize("structure", ["mlp", "attention", "grouped_convolution"])
def test_any_order_of_unrelated_models_is_matched_alike(structure: str) -> None:
    """Four models with little in common, where a matching to the first would depend on which that is."""
    case = family(structure, noise=2.0)
    spaces = case.typing.spaces
    reference = METHOD(case.problem()).permutations
    known = [identity(spaces), *reference]
    for order in list(permutations(range(4)))[5::6]:
        found = METHOD(case.problem(order)).permutations
        for place, permutation in enumerate(found, start=1):
            expected = compose(known[order[place]], invert(known[order[0]], spaces), spaces)
            assert_same(permutation, expected)


@pytest.mark.parametrize(("structure", "alpha"), crossed(STRUCTURES, [0.5, 1.0], every=2))
def test_sweeps_climb_from_anywhere(structure: str, alpha: float) -> None:
    case = family(structure, count=3, noise=1.5)
    models = joined(case, alpha)
    start = tuple(random_permutations(models.plan.spaces, seed) for seed in range(3))
    found = joint_sweep(models, start, models.plan.groups, rng=np.random.default_rng(0), max_sweeps=30)
    assert found.objective[0] == pytest.approx(model_similarity(models, start).total)
    assert found.similarity.total == max(found.objective)
    assert model_similarity(models, found.matching).total == pytest.approx(found.similarity.total)
    assert found.objective[-1] > found.objective[0]
    assert list(found.objective[:-1]) == sorted(found.objective[:-1])


@pytest.mark.parametrize("structure", ["mlp", "attention", "fused_attention", "grouped_convolution", "three_levels"])
def test_no_visit_of_a_group_lowers_the_objective(structure: str) -> None:
    models = joined(family(structure, count=3, noise=1.5), 0.6)
    universe = tuple(random_permutations(models.plan.spaces, seed) for seed in range(3))
    before = model_similarity(models, universe).total
    for group in models.plan.groups.values():
        universe, moved = improve(models, group, universe)
        after = model_similarity(models, universe).total
        assert moved
        assert after > before
        before = after
    for group in models.plan.groups.values():
        if not models.plan.graph[group.root]:
            assert improve(models, group, universe)[1] == 0


def test_matchings_are_consistent_along_every_cycle() -> None:
    models = joined(family("attention", noise=2.0), 0.5)
    start = tuple(identity(models.plan.spaces) for _ in range(4))
    universe = joint_sweep(models, start, models.plan.groups, rng=np.random.default_rng(0), max_sweeps=9).matching
    for a, b, c in permutations(range(4), 3):
        two, three = (relative(universe, *pair, models.plan) for pair in ((a, b), (b, c)))
        around = compose(
            compose(relative(universe, c, a, models.plan), three, models.plan.spaces), two, models.plan.spaces
        )
        assert_same(around, identity(models.plan.spaces))


def test_it_beats_matching_all_to_one_model() -> None:
    """The objective over all pairs, against every choice of a first model that the others are matched to."""
    case = family("mlp", noise=2.0)
    models = joined(case, 0.5)
    (search,) = METHOD(case.problem()).searches
    for first in range(4):
        order = [first, *(other for other in range(4) if other != first)]
        activations = [models.pair(first, other).activations for other in order[1:]]
        problem = MatchProblem(case.typing, [case.weights[model] for model in order], activations)
        star = dict(
            zip(
                order,
                (identity(models.plan.spaces), *MATCHERS["mudsc-align"](problem).permutations),
                strict=True,
            )
        )
        assert max(search.objective) > model_similarity(models, tuple(star[model] for model in range(4))).total


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_must_be_a_share(alpha: float) -> None:
    with pytest.raises(UsageError, match="--alpha: expected a number from 0 to 1"):
        C2m3(alpha=alpha)


def test_what_does_not_go_together_is_refused() -> None:
    case = family("mlp")
    with pytest.raises(UsageError, match="inner products do not mix"):
        C2m3(objective="inner")
    with pytest.raises(UsageError, match="--calib"):
        METHOD(MatchProblem(mlp(), case.weights))
    inner = METHOD(MatchProblem(mlp(), case.weights), C2m3(objective="inner", alpha=1.0))
    for other, found in enumerate(inner.permutations, start=1):
        assert_same(found, case.truth(0, other))
