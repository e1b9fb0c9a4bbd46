"""Parts of a source: which samples they give, pass after pass."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from onnxmerge.calibration.chunks import Feed
from onnxmerge.calibration.recut import Recut
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.subset import Spread, hold_out, holds
from onnxmerge.errors import InputError
from tests.merging.networks import Source


def numbered(*sizes: int) -> Source:
    """Feeds of so many samples each, which are numbered throughout."""
    numbers = np.split(np.arange(sum(sizes), dtype=np.float32), np.cumsum(sizes)[:-1])
    return Source([{"x": part[:, None]} for part in numbers])


def feeds(source: CalibrationSource) -> list[list[int]]:
    return feeds_of(source)


def feeds_of(several: Iterable[Feed]) -> list[list[int]]:
    return [feed["x"][:, 0].astype(int).tolist() for feed in several]


def test_every_fifth_sample_is_held_out_whatever_the_feeds() -> None:
    split = hold_out(numbered(4, 6, 1), divisible=True)
    for _ in range(2):
        assert feeds(split.fit) == [[0, 1, 2, 3], [5, 6, 7, 8], [10]]
        assert feeds(split.held) == [[4, 9]]
    assert np.flatnonzero(split.held_rows()).tolist() == [4, 9]
    assert len(split.held_rows()) == 11


def test_feeds_that_cannot_be_cut_are_held_out_whole() -> None:
    split = hold_out(numbered(3, 3, 3, 3, 3, 3), divisible=False)
    assert feeds(split.fit) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [15, 16, 17]]
    assert feeds(split.held) == [[12, 13, 14]]
    assert np.flatnonzero(split.held_rows()).tolist() == [12, 13, 14]


@pytest.mark.parametrize("divisible", [True, False])
def test_shares_that_are_read_in_turn_each_give_their_own_samples(*, divisible: bool) -> None:
    split = hold_out(numbered(*[2] * 11), divisible=divisible)
    fit, held = feeds(split.fit), feeds(split.held)
    assert len(held) > 1
    both, rest = [feeds_of(pair) for pair in zip(split.fit, split.held, strict=False)], iter(split.held)
    assert [pair[0] for pair in both] == fit[: len(held)]
    assert [pair[1] for pair in both] == held
    assert next(rest)["x"][0, 0] == held[0][0]
    spread = Spread(split.fit, 6)
    assert [feeds_of(pair) for pair in zip(spread, spread, strict=True)] == [[feed, feed] for feed in feeds(spread)]


def test_whether_there_are_so_many_samples() -> None:
    source = numbered(2, 3, 5)
    assert holds(source, 10)
    assert not holds(source, 11)
    assert feeds(source)[0] == [0, 1]
    assert not holds(hold_out(source, divisible=True).fit, 9)


@pytest.mark.parametrize("known", [True, False])
def test_some_of_a_source_comes_from_all_over_it(*, known: bool) -> None:
    source = numbered(2, 2, 2, 2, 2, 2, 2, 1)
    spread = Spread(source if known else hold_out(source, divisible=True).fit, 6)
    for _ in range(2):
        given = feeds(spread)
        assert spread.sizes == [len(feed) for feed in given]
        assert len(given) == 3
        assert given[0][0] < 6 <= given[-1][-1]
        assert not known or [place for place, _ in spread.placed()] == [feed[0] for feed in given]
    assert feeds(Spread(source, 99)) == feeds(source)


def test_some_feeds_of_a_part_by_their_places() -> None:
    source = numbered(*[2] * 11)
    split = hold_out(source, divisible=True)
    for part in (source, split.fit, split.held, Spread(split.fit, 6), Recut(source, 3)):
        every = feeds(part)
        assert part.sizes == [len(feed) for feed in every]
        places = range(0, len(every), 2)
        assert feeds_of(part.at(places)) == [every[place] for place in places]
        assert feeds_of(part.at([])) == []


@pytest.mark.parametrize("divisible", [True, False])
def test_what_is_too_little_cannot_be_divided(*, divisible: bool) -> None:
    with pytest.raises(InputError, match="fewer than five"):
        hold_out(numbered(1, 1, 1, 1), divisible=divisible)
