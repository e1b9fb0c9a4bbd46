from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.matching.assignment import MANY, PREFERENCE, assign


def test_finds_the_best_of_all_permutations() -> None:
    rng = np.random.default_rng(0)
    for size in range(1, 6):
        similarity = rng.standard_normal((size, size))
        best = max(permutations(range(size)), key=lambda perm: similarity[np.arange(size), perm].sum())
        np.testing.assert_array_equal(assign(similarity, "s"), best)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e-30, 1e30])
def test_ties_stay_in_place(value: float) -> None:
    np.testing.assert_array_equal(assign(np.full((7, 7), value), "s"), np.arange(7))


def test_dead_units_fill_up_in_place() -> None:
    similarity = np.zeros((5, 5))
    similarity[0, 3] = similarity[3, 0] = 1.0
    np.testing.assert_array_equal(assign(similarity, "s"), [3, 1, 2, 0, 4])


def test_preference_for_staying_does_not_outweigh_a_real_gain() -> None:
    similarity = np.eye(2)
    similarity[0, 1] = similarity[1, 0] = 1.0 + 1e-6
    np.testing.assert_array_equal(assign(similarity, "s"), [1, 0])


def test_each_of_many_by_itself() -> None:
    similarity = np.random.default_rng(0).standard_normal((2, 3, 6, 6))
    found = assign(similarity, "s")
    for place in np.ndindex(2, 3):
        np.testing.assert_array_equal(found[place], assign(similarity[place], "s"))


def test_no_units() -> None:
    assert assign(np.zeros((0, 0)), "s").shape == (0,)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_names_the_space(value: float) -> None:
    similarity = np.eye(3)
    similarity[1, 2] = value
    with pytest.raises(InputError, match="space heads"):
        assign(similarity, "heads")


def _plain(similarity: NDArray[np.float64]) -> float:
    rows, columns = scipy.optimize.linear_sum_assignment(similarity, maximize=True)
    return float(similarity[rows, columns].sum())


def _correlations(units: int, kind: str) -> NDArray[np.float64]:
    rng = np.random.default_rng(units)
    own, other = rng.standard_normal((units, 40)), rng.standard_normal((units, 40))
    if kind == "copy":
        other = own[rng.permutation(units)]
    elif kind == "dead":
        own[: units // 3], other[units // 4 :][: units // 5] = 0.0, 0.0
    elif kind == "twins":
        own[units // 2 :], other[units // 2 :] = own[: units - units // 2], other[: units - units // 2]
    products = own @ other.T
    return products**9 if kind == "outliers" else products


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("kind", ["apart", "copy", "dead", "twins", "outliers"])
def test_many_units_are_assigned_as_well_as_without_duals(kind: str, scale: float) -> None:
    similarity = _correlations(MANY + 30, kind) * (scale / 1e10 if kind == "outliers" else scale)
    found = assign(similarity, "s")
    np.testing.assert_array_equal(np.sort(found), np.arange(len(similarity)))
    total, best = float(similarity[np.arange(len(found)), found].sum()), _plain(similarity)
    assert total >= best - 2 * PREFERENCE * np.abs(similarity).max() * len(found)


def test_many_dead_units_stay_in_place() -> None:
    similarity = _correlations(MANY + 44, "apart")
    dead = np.arange(0, MANY, 3)
    similarity[dead], similarity[:, dead] = -1e3, -1e3
    found = assign(similarity, "s")
    np.testing.assert_array_equal(found[dead], dead)
