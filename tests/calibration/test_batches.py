"""Batches are put together where the network takes them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxmerge.calibration.batches import ENOUGH, grouped, joined_parts, takes_batches
from tests.merging.networks import Source, images, residual


def sizes(source: Source, batch: str = "float[n") -> list[int]:
    return [len(feed["x"]) for feed in grouped(residual(batch=batch).model, source)]


def test_small_batches_are_put_together_and_the_remainder_goes_with_the_last() -> None:
    assert sizes(images(600, 64)) == [ENOUGH, 600 - ENOUGH]
    assert sizes(images(10, 3)) == [10]
    assert sizes(images(600, 300)) == [300, 300]


def test_nothing_is_lost_or_moved() -> None:
    source = images(300, 7)
    joined = np.concatenate([feed["x"] for feed in grouped(residual().model, source)])
    np.testing.assert_array_equal(joined, np.concatenate([feed["x"] for feed in source.feeds]))


def test_fixed_batches_stay_as_they_are() -> None:
    source = images(3, 1)
    assert sizes(source, "float[1") == [1, 1, 1]
    assert not takes_batches(residual(batch="float[1").model, source)
    assert takes_batches(residual(batch="float[64").model, images(128, 64))
    assert takes_batches(residual().model, source)


def test_batches_of_other_lengths_are_not_mixed() -> None:
    feeds = [{"x": np.zeros((4, 3, side, side), np.float32)} for side in (5, 5, 6)]
    assert sizes(Source(feeds)) == [8, 4]


def test_a_small_remainder_before_other_lengths_goes_with_the_batch_before_it() -> None:
    feeds = [{"x": np.zeros((samples, 3, 5, 5), np.float32)} for samples in (ENOUGH, 8)]
    others = [{"x": np.zeros((samples, 3, 6, 6), np.float32)} for samples in (ENOUGH, ENOUGH, 8)]
    assert sizes(Source([*feeds, *others])) == [ENOUGH + 8, ENOUGH, ENOUGH + 8]
    assert sizes(Source([feeds[0], *others])) == [ENOUGH, ENOUGH, ENOUGH + 8]


@pytest.mark.parametrize(
    ("batches", "most", "expected"),
    [
        ([4, 4, 4], None, [4, 4, 4]),
        ([4, 4, 4], 8, [8, 4]),
        ([4, 4, 4], 100, [12]),
        ([9, 2], 4, [4, 4, 3]),
        ([3, 3], 5, [3, 3]),
        ([], 4, []),
    ],
)
def test_parts_are_joined_and_cut(batches: list[int], most: int | None, expected: list[int]) -> None:
    ends = np.cumsum([0, *batches])
    feeds = [{"x": np.arange(first, end)[:, None]} for first, end in itertools.pairwise(ends)]
    found = [part["x"] for part in joined_parts(feeds, most)]
    assert [len(part) for part in found] == expected
    assert [value for part in found for value in part[:, 0]] == list(range(ends[-1]))


def test_parts_of_other_lengths_are_not_joined() -> None:
    found = joined_parts([{"x": np.zeros((2, width))} for width in (3, 3, 4)], 10)
    assert [part["x"].shape for part in found] == [(4, 3), (2, 4)]
