from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from onnxmerge.errors import InputError
from onnxmerge.matching.assignment import assign


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
