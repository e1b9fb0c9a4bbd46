from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.matching.exemplars import with_exemplars
from onnxmerge.units.layout import Space, Typing
from onnxmerge.units.zips import Zipped
from tests.layouts import typed

ZIPS = Zipped(({"h": np.array([0, 0, 1])}, {"h": np.array([0, 1, 2])}))
"""Merged unit 0 has three members, two of the first model; 1 has one of each; 2 one of the second."""


def mlp() -> Typing:
    tensors = {"w1": ["h", "4"], "b": ["h"], "w2": ["2", "h"]}
    return replace(typed([Space("h", 3)], tensors), consumed=frozenset({("w2", 1, "h")}))


Weights = dict[str, NDArray[np.float32]]
Lengths = tuple[float, float, float]
Seen = dict[str, list[float]]


def weights(*lengths: float) -> Weights:
    """Units that are read with weights of these lengths."""
    read = np.array([lengths, np.zeros(3)], np.float32)
    return {"w1": np.ones((3, 4), np.float32), "b": np.ones(3, np.float32), "w2": read}


CASES: dict[str, Any] = {
    "read with the largest weights": ((1, 3, 2), (2, 1, 3), {}, {}, [[0, 1, 1], [0, 0, 1]]),
    "the first of equals": ((1, 1, 1), (1, 1, 1), {}, {}, [[1, 0, 1], [0, 0, 1]]),
    "that the data moves most": ((1, 1, 1), (1, 1, 1), {"h": [1, 2, 0]}, {"h": [1, 1, 1]}, [[0, 1, 0], [0, 1, 1]]),
    "as a share of its own model": ((1, 1, 2), (100, 900, 9000), {}, {}, [[1, 0, 1], [0, 0, 1]]),
    "that nothing reads": ((0, 0, 0), (0, 0, 0), {}, {}, [[1, 0, 1], [0, 0, 1]]),
}


@pytest.mark.parametrize(("one", "two", "moves", "others", "expected"), CASES.values(), ids=CASES)
def test_one_member_stands_for_the_others(
    one: Lengths, two: Lengths, moves: Seen, others: Seen, expected: list[list[float]]
) -> None:
    seen = [{name: np.array(own, float) for name, own in each.items()} for each in (moves, others)]
    found = with_exemplars(ZIPS, mlp(), [weights(*one), weights(*two)], seen, [0.5, 0.5])
    assert [own["h"].tolist() for own in found.counts] == expected


def test_a_model_without_a_share_stands_for_nothing_that_others_have() -> None:
    found = with_exemplars(ZIPS, mlp(), [weights(9, 9, 9), weights(1, 1, 1)], [{}, {}], [0.0, 1.0])
    assert [own["h"].tolist() for own in found.counts] == [[0, 0, 0], [1, 1, 1]]


def test_units_without_weights_that_read_them_count_by_those_that_give_them() -> None:
    typing = replace(typed([Space("h", 3)], {"w1": ["h", "4"]}), consumed=frozenset())
    given = [{"w1": np.diag([1.0, 3, 2])[:, [0, 1, 2, 2]]}, {"w1": np.diag([2.0, 1, 3])[:, [0, 1, 2, 2]]}]
    found = with_exemplars(ZIPS, typing, given, [{}, {}], [0.5, 0.5])
    assert [own["h"].tolist() for own in found.counts] == [[0, 1, 1], [0, 0, 1]]


def test_outer_units_stay_the_mean_for_their_inner_units_are_of_all_models() -> None:
    spaces = [Space("g", 2), Space("u", 2, varies_with=("g",))]
    typing = typed(spaces, {"w": ["g u", "3"]})
    labels = {"g": np.array([1, 0]), "u": np.array([[0, 1], [0, 1]])}
    zips = Zipped(({**labels, "g": np.array([0, 1])}, labels))
    one, two = ({"w": np.full((4, 3), size, np.float32)} for size in (1, 2))
    assert with_exemplars(zips, typing, [one, two], [{}, {}], [0.5, 0.5]).counts == ({}, {})
