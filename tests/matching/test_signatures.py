"""Units are known again by their weights alone, in whatever order all units stand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from onnxmerge.matching.method import MatchProblem
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.matching.signatures import alike, signatures
from onnxmerge.matching.similarity import PairOfModels, weight_shares
from onnxmerge.matching.sweeps import by_signatures
from onnxmerge.units.groups import make_plan
from onnxmerge.units.layout import Space
from onnxmerge.units.permutations import random_permutations, transport
from tests.matching.structures import STRUCTURES, example, fixed, mlp, typing


@pytest.mark.parametrize("structure", STRUCTURES)
def test_one_pass_finds_a_permuted_copy(structure: str) -> None:
    case = example(STRUCTURES[structure](), 1)
    plan = make_plan(case.typing)
    pair = PairOfModels(plan, case.first, case.other, {}, weight_shares(plan, 1.0, {}))
    found = by_signatures(pair)
    assert found is not None
    for group in plan.groups.values():
        for name in group.members:
            np.testing.assert_array_equal(found[name], case.truth[name], err_msg=name)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_models_trained_apart_are_told_before_anything_is_assigned(structure: str) -> None:
    case = example(STRUCTURES[structure](), 1)
    plan, rng = make_plan(case.typing), np.random.default_rng(5)
    other = {name: rng.standard_normal(array.shape).astype(array.dtype) for name, array in case.first.items()}
    assert by_signatures(PairOfModels(plan, case.first, other, {}, weight_shares(plan, 1.0, {}))) is None


def test_dead_units_do_not_hide_a_permuted_copy() -> None:
    case = example(mlp(), 1)
    plan = make_plan(case.typing)
    first, other = dict(case.first), dict(case.other)
    dead = np.arange(8)  # half of the 16 units of a
    for name, layout in case.typing.initializers.items():
        for weights, units in ((first, dead), (other, case.truth["a"][dead])):
            weights[name] = weights[name].copy()
            for block in layout.blocks:
                for axis, each in enumerate(block.axes):
                    if each.spaces == ("a",):
                        np.moveaxis(weights[name], axis, 0)[each.positions.reshape(-1)[units]] = 0.0
    found = by_signatures(PairOfModels(plan, first, other, {}, weight_shares(plan, 1.0, {})))
    assert found is not None
    np.testing.assert_array_equal(np.sort(found["a"][dead]), np.sort(case.truth["a"][dead]))


def test_units_without_any_weight_are_all_alike() -> None:
    case = example(mlp(), 1)
    plan = make_plan(case.typing)
    assert plan.groups["a"].occurrences
    empty = {name: np.zeros_like(array) for name, array in case.first.items()}
    found = signatures(plan, empty)["a"]
    np.testing.assert_array_equal(alike(found, found), np.ones((16, 16)))


def test_a_zip_tells_units_apart_that_the_data_never_wakes() -> None:
    """Else it merges them at random, also inside one model, which shows as soon as other data wakes them."""
    case = example(mlp(), 1)
    together = {name: each.copy() for name, each in case.together.items()}
    count, dead = len(together["a"]) // 2, np.arange(5)
    for units in (dead, count + case.truth["a"][dead]):
        together["a"][units] = together["a"][:, units] = 0.0
    problem = MatchProblem(case.typing, [case.first, case.other], together=together)
    zipped = MATCHERS["zipit"](problem).zipped
    assert zipped is not None
    one, other = (labels["a"] for labels in zipped.models)
    np.testing.assert_array_equal(np.sort(one), np.arange(count))
    np.testing.assert_array_equal(other[case.truth["a"]], one)


def test_weight_matching_finds_a_copy_of_a_network_of_selectors() -> None:
    """Layers of a few equal weights, as in lattices of minima and maxima, say what is alike only by their neighbours.

    From any other start coordinate ascent ends far away.
    """
    rng = np.random.default_rng(0)
    names = ["x", *(f"h{layer}" for layer in range(10)), "y"]
    spaces = [fixed("x", 2), *(Space(name, 48) for name in names[1:-1]), fixed("y", 2)]
    layers = {f"w{place}": list(pair) for place, pair in enumerate(pairwise(names))}
    types = typing(spaces, layers)
    first = {
        name: rng.choice([-1.0, 0.0, 1.0], layout.shape, p=[0.025, 0.95, 0.025]).astype(np.float32)
        for name, layout in types.initializers.items()
    }
    truth = random_permutations(types.spaces, 1)
    other = {name: transport(first[name], types.initializers[name], types.spaces, truth) for name in first}
    [found] = MATCHERS["rebasin"](MatchProblem(types, [first, other])).permutations
    for name, array in other.items():
        np.testing.assert_array_equal(transport(array, types.initializers[name], types.spaces, found), first[name])
