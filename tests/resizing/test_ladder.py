"""Ladders of widths: each rung costs more and is nowhere narrower, and room that is worth most comes first."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmerge.activations.joint import JointVariance
from onnxmerge.resizing.ladder import RUNGS, Fractions, Widenable, ladder


def group(name: str, size: int, shared: int, readers: int = 1, models: int = 2) -> Widenable:
    """Units of which so many are the same in all models, so that models * size - (models - 1) * shared differ."""
    directions = models * size - (models - 1) * shared
    kept = np.minimum(np.arange(1, models * size + 1) / directions, 1.0)
    return Widenable(name, size, readers, JointVariance(kept))


def test_a_group_that_has_room_is_widened_last() -> None:
    groups = [group("full", 8, 8), group("apart", 8, 0)]
    rungs = ladder(groups, 2, lambda fractions: 100 + sum(round(8 * each) - 8 for each in fractions.values()))
    assert rungs[0] == {}
    assert rungs[-1] == {"full": 2.0, "apart": 2.0}
    for rung in rungs:
        assert rung.get("full", 1.0) == 1.0 or rung["apart"] == 2.0


def test_a_stream_that_many_read_comes_first() -> None:
    groups = [group("inner", 8, 4), group("stream", 8, 4, readers=6)]
    rungs = ladder(groups, 2, lambda fractions: 100 + sum(round(8 * each) - 8 for each in fractions.values()))
    assert {*rungs[1]} == {"stream"}


def test_what_is_cheap_comes_first() -> None:
    prices = {"dear": 100, "cheap": 1}
    groups = [group("dear", 8, 0), group("cheap", 8, 0)]
    rungs = ladder(
        groups, 2, lambda found: 100 + sum(prices[name] * round(8 * each - 8) for name, each in found.items())
    )
    assert {*rungs[1]} == {"cheap"}


def test_of_what_nothing_is_known_nothing_is_gained() -> None:
    groups = [Widenable("unseen", 8, 9, None), group("apart", 8, 0)]
    rungs = ladder(groups, 2, lambda fractions: 100 + sum(round(8 * each) - 8 for each in fractions.values()))
    assert {*rungs[1]} == {"apart"}


def test_no_groups_no_ladder() -> None:
    assert ladder([], 2, lambda _: 10) == [{}]


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=12),
    models=st.integers(2, 4),
    seed=st.integers(0, 9),
)
def test_every_rung_is_wider_and_costs_more(sizes: list[int], models: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = []
    for index, size in enumerate(sizes):
        values = np.sort(rng.random(models * size))[::-1]
        variance = JointVariance(np.minimum(np.cumsum(values) / values.sum(), 1.0))
        groups.append(Widenable(f"p{index}", size, int(rng.integers(1, 6)), variance))

    def of(fractions: Fractions) -> int:
        wide = [round(size * fractions.get(f"p{index}", 1.0)) for index, size in enumerate(sizes)]
        return 7 + sum(one * other for one, other in zip([3, *wide], [*wide, 5], strict=True))

    rungs = ladder(groups, models, of)
    assert len(rungs) <= RUNGS + 1
    assert rungs[-1] == dict.fromkeys((f"p{index}" for index in range(len(sizes))), float(models))
    costs = [of(rung) for rung in rungs]
    assert costs == sorted(set(costs))
    for before, after in pairwise(rungs):
        assert all(fraction <= after[name] for name, fraction in before.items())
    assert rungs == ladder(groups, models, of)


@pytest.mark.parametrize("rows", [1, 3])
def test_gain_is_what_more_units_hold(rows: int) -> None:
    found = group("p", 4, 2, readers=rows)
    assert found.gain(1.0, 1.25) == pytest.approx(rows / 6)
    assert found.gain(1.5, 2.0) == pytest.approx(0.0)
