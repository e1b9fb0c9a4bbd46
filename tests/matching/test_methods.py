"""Each method on every structure: a permuted copy of a random model must be recognised unit by unit."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from onnxmerge.errors import InputError, UsageError
from onnxmerge.matching.method import MatchProblem
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.matching.methods.rebasin import Rebasin
from onnxmerge.matching.similarity import has_twins
from onnxmerge.units.layout import Space
from onnxmerge.units.permutations import Permutations, identity, invert, random_permutations, transport
from onnxmerge.units.zips import Zipped
from tests.crossed import crossed
from tests.matching.structures import STRUCTURES, Example, attention, example, fixed, mlp, random_weights, typing

LEARNING = [name for name, method in MATCHERS.items() if name != "average" and not method.all_pairs]
ZIPPING = [name for name, method in MATCHERS.items() if method.zips]


def problem(case: Example) -> MatchProblem:
    return MatchProblem(case.typing, [case.first, case.other], [case.activations], case.together)


def assert_same(found: Permutations, truth: Permutations) -> None:
    for name, perm in truth.items():
        still = np.zeros_like(perm)  # a single unit inside an outer one has no entry
        np.testing.assert_array_equal(found.get(name, still), perm, err_msg=name)


@pytest.mark.parametrize(
    ("method", "structure", "noise"), crossed([*LEARNING, "rebasin inner"], STRUCTURES, [0.0, 0.05], every=3)
)
def test_recovers_hidden_permutations(method: str, structure: str, noise: float) -> None:
    case = example(STRUCTURES[structure](), seed=3, noise=noise)
    name, _, inner = method.partition(" ")
    result = MATCHERS[name](problem(case), Rebasin(objective="inner") if inner else None)
    assert_same(result.permutations[0], case.truth)
    (search,) = result.searches
    assert search.converged
    assert not search.notes
    assert search.similarity_after.keys() == search.similarity_before.keys()
    assert min(search.similarity_after.values()) > 0.9


@pytest.mark.parametrize("structure", STRUCTURES)
def test_average_leaves_everything_alone(structure: str) -> None:
    case = example(STRUCTURES[structure]())
    result = MATCHERS["average"](problem(case))
    for name, perm in result.permutations[0].items():
        np.testing.assert_array_equal(perm, identity(case.typing.spaces)[name])
    assert result.searches == ()
    assert not result.moves


def test_a_method_that_moves_units_must_not_say_that_it_does_not() -> None:
    case = example(STRUCTURES["mlp"]())
    lying = replace(MATCHERS["rebasin"], moves=False)
    with pytest.raises(ValueError, match="method rebasin says that it moves no unit, and moved some"):
        lying(problem(case))


@pytest.mark.parametrize("method", LEARNING)
def test_equal_models_stay_in_place(method: str) -> None:
    case = example(attention())
    rng = np.random.default_rng(0)
    alike = {
        name: np.asarray(np.corrcoef(rng.standard_normal((len(similarity), 50))), np.float64)
        for name, similarity in case.activations.items()
    }
    same = MatchProblem(case.typing, [case.first, case.first], [alike])
    assert_same(MATCHERS[method](same).permutations[0], identity(case.typing.spaces))


@pytest.mark.parametrize("method", LEARNING)
def test_every_other_model_is_brought_to_the_first(method: str) -> None:
    typed = mlp()
    one, two = example(typed, seed=1), example(typed, seed=1)
    perm = {name: np.roll(perm, 1) for name, perm in identity(typed.spaces).items()}
    moved = {name: transport(w, typed.initializers[name], typed.spaces, perm) for name, w in one.first.items()}
    seen = {name: np.roll(np.eye(typed.spaces[name].size), 1, axis=1) for name in perm}
    models = MatchProblem(typed, [one.first, two.other, moved], [two.activations, seen])
    result = MATCHERS[method](models)
    assert_same(result.permutations[0], two.truth)
    assert_same(result.permutations[1], {name: np.roll(perm, -1) for name, perm in identity(typed.spaces).items()})


@pytest.mark.parametrize("method", ["act-align", "mudsc-align"])
@pytest.mark.parametrize("unseen", ["s", "v", "qk"])
def test_weights_stand_in_for_activations_that_were_not_seen(method: str, unseen: str) -> None:
    case = example(attention(), seed=2)
    seen = {name: similarity for name, similarity in case.activations.items() if name != unseen}
    result = MATCHERS[method](replace(problem(case), activations=[seen]))
    assert_same(result.permutations[0], case.truth)
    assert result.searches[0].notes == (f"no activations were seen of {unseen}: matched by weights instead",)


def test_what_does_not_nest_is_left_alone_and_noted() -> None:
    spaces = [fixed("x", 9), Space("a", 3), Space("b", 3), Space("u", 4, ("a", "b"))]
    typed = typing(spaces, {"w": ["a", "b", "u", "x"]})
    result = MATCHERS["rebasin"](MatchProblem(typed, [random_weights(typed, 0)] * 2))
    assert result.permutations[0].keys() == {"a", "b"}
    (note,) = result.searches[0].notes
    assert "space u was left alone" in note


def test_nothing_to_match() -> None:
    typed = typing([fixed("x", 4)], {"w": ["x", "x"]})
    weights = random_weights(typed, 0)
    for method in MATCHERS.values():
        result = method(MatchProblem(typed, [weights, weights], [{}]))
        assert not any(result.permutations)
        assert all(search.converged for search in result.searches)
        assert len(result.searches) == int(method.moves)


@pytest.mark.parametrize("method", ["act-align", "mudsc-align"])
def test_missing_activations_ask_for_calibration(method: str) -> None:
    case = example(mlp())
    with pytest.raises(UsageError, match=r"--calib"):
        MATCHERS[method](replace(problem(case), activations=[]))


def test_twins_are_units_that_resemble_all_others_alike() -> None:
    similarity = np.asarray(np.corrcoef(np.random.default_rng(0).standard_normal((300, 40))))
    assert not has_twins(similarity)
    for row in (np.zeros(300), similarity[0]):
        twins = similarity.copy()
        twins[7] = twins[9] = row
        assert has_twins(twins)
        assert has_twins(twins.T)


def test_twins_are_units_that_one_unit_is_not_told_from() -> None:
    """Other units resemble the two a little differently, and that decides nothing between them."""
    similarity = np.asarray(np.corrcoef(np.random.default_rng(0).standard_normal((300, 40))))
    similarity[7, 9] = similarity[9, 7] = 1.0
    assert has_twins(similarity)
    assert has_twins(np.tile(similarity, (2, 2)), models=2)
    similarity[7, 9] = similarity[9, 7] = 1 - 1e-5
    assert not has_twins(similarity)


def test_weights_tell_apart_what_the_data_never_wakes() -> None:
    case = example(mlp())
    seen = {name: similarity.copy() for name, similarity in case.activations.items()}
    dead = case.truth["a"][:3]
    seen["a"][:3] = 0.0
    seen["a"][:, dead] = 0.0
    found = MATCHERS["act-align"](replace(problem(case), activations=[seen]))
    assert_same(found.permutations[0], case.truth)
    (note,) = found.searches[0].notes
    assert "all units of a apart: weights decide" in note


@pytest.mark.parametrize("method", ["act-align", "mudsc-align", "zipit", "mudsc-zip"])
def test_what_no_activation_tells_apart_is_matched_by_weights(method: str) -> None:
    """Calibration data was given, and nothing that could be compared was seen of any space."""
    blind = replace(problem(example(mlp())), activations=[{}], together={})
    found = MATCHERS[method](blind)
    assert any("matched by weights instead" in note for search in found.searches for note in search.notes)


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("mudsc-align", {"alpha": 0.0}, "--alpha 0 is what method act-align does"),
        ("mudsc-align", {"alpha": 1.0}, "--alpha 1 is what method rebasin does"),
        ("mudsc-zip", {"alpha": 0.0}, "--alpha 0 is what method zipit does"),
        ("mudsc-zip", {"alpha": 1}, "--alpha 1 is what method weight-zip does"),
        ("mudsc-align", {"alpha": -0.5}, "--alpha: expected a number from 0 to 1, or auto"),
        ("mudsc-zip", {"alpha": float("nan")}, "--alpha: expected a number from 0 to 1, or auto"),
        ("c2m3", {"objective": "inner"}, "inner products do not mix with activations"),
        ("rebasin", {"objective": "outer"}, "--objective: expected one of correlation, inner"),
        ("zipit", {"zip_a": float("inf")}, "--zip-a: expected a number from 0 to 1"),
    ],
)
def test_own_options_that_cannot_be_meant(method: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        MATCHERS[method].own(given)


@pytest.mark.parametrize("method", MATCHERS)
def test_a_number_that_is_to_be_searched_is_no_number(method: str) -> None:
    found = MATCHERS[method].own({"alpha": "auto"})
    if MATCHERS[method].mixes:
        with pytest.raises(UsageError, match="alpha is to be searched"):
            MATCHERS[method](problem(example(mlp())), found)
    else:
        assert "alpha" not in MATCHERS[method].option_names


def test_an_option_of_one_name_is_one_option() -> None:
    """A search gives it to all that have it: it says the same there, and is the same by default."""
    known: dict[str, tuple[str, Any]] = {}
    for method in MATCHERS.values():
        for each in fields(method.options):
            told = each.metadata["described"].help, each.default
            assert known.setdefault(each.name, told) == told


def test_each_method_is_a_module_of_its_name_and_says_what_it_needs() -> None:
    for name, method in MATCHERS.items():
        assert method.match.__module__.endswith(f".methods.{name.replace('-', '_')}")
        assert method.summary
        compared = method.alpha(method.options())
        assert method.compares_activations(method.options()) == ("activations" in method.needs)
        assert compared == {(): 1.0, ("weights",): 1.0, ("activations",): 0.0}.get(method.needs, 0.5)


def test_weights_that_are_no_numbers_name_the_space() -> None:
    case = example(mlp())
    case.other["w2"][3, 4] = np.nan
    with pytest.raises(InputError, match=r"space [ab]"):
        MATCHERS["rebasin"](problem(case))


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("method", ZIPPING)
def test_a_zip_of_permuted_copies_is_the_permutation(method: str, structure: str, noise: float) -> None:
    case = example(STRUCTURES[structure](), seed=3, noise=noise)
    result = MATCHERS[method](problem(case))
    assert isinstance(result.matchings, Zipped)
    first, second = result.matchings.models
    assert_same({**first}, identity(case.typing.spaces))
    assert_same(invert(second, case.typing.spaces), case.truth)
    (search,) = result.searches
    assert search.converged
    assert not search.notes
    assert search.similarity_after.keys() == search.similarity_before.keys()
    assert min(search.similarity_after.values()) > 0.9
    assert list(search.objective) == sorted(search.objective)


@pytest.mark.parametrize("method", ZIPPING)
def test_a_zip_of_equal_models_pairs_each_unit_with_itself(method: str) -> None:
    case = example(attention())
    rng = np.random.default_rng(0)
    alike = {}
    for name, similarity in case.together.items():
        seen = rng.standard_normal((len(similarity) // 2, 50))
        alike[name] = np.asarray(np.corrcoef(seen, seen), np.float64)
    zipped = MATCHERS[method](MatchProblem(case.typing, [case.first] * 2, [], alike)).matchings
    assert isinstance(zipped, Zipped)
    for labels in zipped.models:
        assert_same({**labels}, identity(case.typing.spaces))


@pytest.mark.parametrize("method", ["zipit", "mudsc-zip"])
def test_three_models_are_zipped_at_once(method: str) -> None:
    typed = mlp()
    first, rng = random_weights(typed, 0), np.random.default_rng(0)
    orders = [identity(typed.spaces), *(random_permutations(typed.spaces, seed) for seed in (1, 2))]
    moved = [
        {name: transport(array, typed.initializers[name], typed.spaces, order) for name, array in first.items()}
        for order in orders
    ]
    seen = {name: rng.standard_normal((typed.spaces[name].size, 50)) for name in ("a", "b")}
    together = {name: np.corrcoef(np.concatenate([x[order[name]] for order in orders])) for name, x in seen.items()}
    zipped = MATCHERS[method](MatchProblem(typed, moved, [], together)).matchings
    assert isinstance(zipped, Zipped)
    for labels, order in zip(zipped.models, orders, strict=True):
        assert_same({**labels}, order)


def test_zip_methods_want_activations_of_all_models() -> None:
    with pytest.raises(UsageError, match=r"--calib"):
        MATCHERS["zipit"](replace(problem(example(mlp())), together=None))


def test_zip_names_the_space_of_weights_that_are_no_numbers() -> None:
    case = example(mlp())
    case.other["w2"][3, 4] = np.nan
    with pytest.raises(InputError, match=r"space [ab]"):
        MATCHERS["weight-zip"](problem(case))
