"""What a few units tell of all of them, where they stand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.matching.objective import ObjectiveFunction
from onnxmerge.matching.sampled_units import DRAWN, least_alike, sums_where_they_stand
from onnxmerge.matching.similarity import PairOfModels, weight_shares, weight_similarity
from onnxmerge.pipeline.ordering import OWN, alike
from onnxmerge.types import Arrays
from onnxmerge.units.groups import make_plan
from onnxmerge.units.layout import Space
from onnxmerge.units.permutations import identity
from tests.layouts import typed
from tests.matching.structures import STRUCTURES, example

UNITS = 5 * DRAWN
WIDE = make_plan(typed([Space("u", UNITS)], {"in": ["u", "6"], "bias": ["u"], "out": ["3", "u"]}))
RNG = np.random.default_rng(7)


def drawn(scale: float = 1.0) -> dict[str, np.ndarray]:
    sizes = {"in": (UNITS, 6), "bias": (UNITS,), "out": (3, UNITS)}
    return {name: (scale * RNG.normal(size=size)).astype(np.float32) for name, size in sizes.items()}


BASE = drawn()


def tuned(scale: float) -> dict[str, np.ndarray]:
    learnt = drawn(scale)
    return {name: array + learnt[name] for name, array in BASE.items()}


def in_order(order: np.ndarray) -> dict[str, np.ndarray]:
    return {"in": BASE["in"][order], "bias": BASE["bias"][order], "out": BASE["out"][:, order]}


def with_dead(count: int) -> dict[str, np.ndarray]:
    found = {name: array.copy() for name, array in tuned(0.05).items()}
    found["in"][:count], found["bias"][:count], found["out"][:, :count] = 0, 0, 0
    return found


@pytest.mark.parametrize("structure", STRUCTURES)
def test_some_units_are_compared_as_all_are(structure: str) -> None:
    """Of every structure, whatever stands inside what: the correlations of some are those that all of them have."""
    case = example(STRUCTURES[structure](), 1, noise=0.5)
    plan = make_plan(case.typing)
    pair = PairOfModels(plan, case.first, case.other, {}, weight_shares(plan, 1.0, {}))
    every = ObjectiveFunction(pair).by_unit(identity(plan.spaces))
    some = {name: np.arange(0, len(found), 2) for name, found in every.items()}
    both = sums_where_they_stand(plan, case.first, [case.other, case.first], some)
    for name, found in every.items():
        np.testing.assert_allclose(weight_similarity(both[0][name]), found[::2], atol=1e-9)
        np.testing.assert_allclose(weight_similarity(both[1][name]), 1, atol=1e-9)


@pytest.mark.parametrize(
    ("other", "sure"),
    [
        (BASE, True),
        (tuned(0.05), True),
        (tuned(0.2), True),
        (tuned(0.45), False),
        (drawn(), False),
        (in_order(np.roll(np.arange(UNITS), 1)), False),
        (in_order(np.r_[np.arange(UNITS // 4)[::-1], np.arange(UNITS // 4, UNITS)]), False),
        (in_order(np.r_[np.arange(UNITS // 100)[::-1], np.arange(UNITS // 100, UNITS)]), True),
        (with_dead(UNITS // 2), False),
    ],
    ids=[
        *("itself", "fine-tune", "one that learnt more", "one near the bound", "another training", "another order"),
        *("a quarter in another order", "a hundredth in another order", "half of the units dead"),
    ],
)
def test_it_is_sure_of_what_all_units_say(other: Arrays, *, sure: bool) -> None:
    """The bound is below the mean over all units, and near it where units are alike."""
    mean = alike(WIDE, BASE, other, identity(WIDE.spaces))
    least, again = least_alike(WIDE, BASE, [other, other])
    assert least is not None
    assert least == again
    assert least <= mean
    assert mean - least < 0.1
    assert (least >= OWN) == sure
    assert not sure or mean >= OWN


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
def test_of_what_is_not_finite_nothing_is_said(value: float) -> None:
    other = {**BASE, "in": BASE["in"].copy()}
    other["in"][:, 2] = value
    least, sure = least_alike(WIDE, BASE, [other, BASE])
    assert sure is not None
    assert (least is None) == (value != 3e38)


def test_of_few_units_nothing_is_said() -> None:
    plan = make_plan(typed([Space("u", 2 * DRAWN)], {"in": ["u", "6"]}))
    weights = {"in": BASE["in"][: 2 * DRAWN]}
    assert least_alike(plan, weights, [weights]) == [None]
    assert least_alike(make_plan(typed([], {})), {}, [{}]) == [None]
