"""Batches are put together where the network takes them."""

from __future__ import annotations

import numpy as np

from onnxmerge.calibration.batches import ENOUGH, grouped, takes_batches
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
