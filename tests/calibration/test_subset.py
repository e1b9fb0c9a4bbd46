"""Parts of a source: which samples they give, pass after pass."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.subset import FirstSamples, hold_out
from onnxmerge.errors import InputError
from tests.merging.networks import Source


def numbered(*sizes: int) -> Source:
    """Feeds of so many samples each, which are numbered throughout."""
    numbers = np.split(np.arange(sum(sizes), dtype=np.float32), np.cumsum(sizes)[:-1])
    return Source([{"x": part[:, None]} for part in numbers])


def feeds(source: CalibrationSource) -> list[list[int]]:
    source.rewind()
    found = []
    while (feed := source.get_next()) is not None:
        found.append(feed["x"][:, 0].astype(int).tolist())
    return found


def test_the_last_fifth_is_held_out_even_inside_a_feed() -> None:
    split = hold_out(numbered(4, 4, 2), divisible=True)
    for _ in range(2):
        assert feeds(split.fit) == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert feeds(split.held) == [[8, 9]]
    cut = hold_out(numbered(4, 6), divisible=True)
    assert feeds(cut.fit) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert feeds(cut.held) == [[8, 9]]
    assert (cut.fit.batches, cut.held.batches, cut.samples, cut.border) == (2, 1, 10, 8)


def test_feeds_that_cannot_be_cut_are_held_out_whole() -> None:
    split = hold_out(numbered(3, 3, 3), divisible=False)
    assert feeds(split.fit) == [[0, 1, 2], [3, 4, 5]]
    assert feeds(split.held) == [[6, 7, 8]]
    assert (split.fit.batches, split.held.batches, split.samples, split.border) == (2, 1, 9, 6)


def test_a_part_has_a_beginning_too() -> None:
    assert feeds(FirstSamples(hold_out(numbered(2, 3, 5), divisible=True).fit, 3)) == [[0, 1], [2, 3, 4]]


@pytest.mark.parametrize("divisible", [True, False])
def test_one_sample_cannot_be_divided(*, divisible: bool) -> None:
    with pytest.raises(InputError, match="found 1"):
        hold_out(numbered(1), divisible=divisible)
