"""Data of several models as one source: which samples stand together, and that none is lost."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.calibration.interleaved import Interleaved
from onnxmerge.calibration.subset import Spread, cuts, hold_out, own_parts
from tests.calibration.test_subset import feeds
from tests.merging.networks import Source


def sources(*sizes: tuple[int, ...]) -> tuple[Source, ...]:
    """Sources with feeds of these sizes, whose samples are numbered from 0, 1000, 2000, ..."""
    found = []
    for owner, own in enumerate(sizes):
        numbers = np.split(np.arange(sum(own), dtype=np.float32) + 1000 * owner, np.cumsum(own)[:-1])
        found.append(Source([{"x": part[:, None]} for part in numbers]))
    return tuple(found)


def test_every_feed_has_of_every_source_in_proportion() -> None:
    source = Interleaved(sources((3, 3, 2), (4,)), 4, mixed=True)
    expected = [[0, 1, 1000], [2, 3, 4, 1001, 1002], [5, 6, 7, 1003]]
    assert feeds(source) == expected
    assert list(source.sizes) == [len(feed) for feed in feeds(source)]


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("sizes", [[(8,), (8,)], [(5, 1), (3, 3, 3), (1,)], [(1,)] * 9, [(2, 2), (64,) * 3]])
def test_all_samples_come_once_in_their_order_pass_after_pass(sizes: list[tuple[int, ...]], *, mixed: bool) -> None:
    source = Interleaved(sources(*sizes), 4, mixed)
    found = feeds(source)
    for _ in range(2):
        assert feeds(source) == found
        flat = [number for feed in found for number in feed]
        for owner, own in enumerate(sizes):
            assert [number for number in flat if number // 1000 == owner] == [
                1000 * owner + at for at in range(sum(own))
            ]
        assert [len(feed) for feed in found] == list(source.sizes)
        assert all(found)
    for places in ([], [0], [len(found) - 1], list(range(0, len(found), 2))):
        assert [feed["x"][:, 0].astype(int).tolist() for feed in source.at(places)] == [found[at] for at in places]


def test_some_of_the_feeds_are_not_all_of_one_source() -> None:
    source = Interleaved(sources(*[(1,) * 32] * 8), 1, mixed=False)
    assert len({number // 1000 for feed in feeds(Spread(source, 32)) for number in feed}) > 4


@pytest.mark.parametrize("mixed", [True, False])
def test_every_fifth_sample_of_each_is_held_out(*, mixed: bool) -> None:
    split = hold_out(Interleaved(sources((10,), (5, 5)), 4, mixed), divisible=True)
    held = [number for feed in feeds(split.held) for number in feed]
    assert sorted(held) == [4, 9, 1004, 1009]
    assert [[number for feed in feeds(own) for number in feed] for own in own_parts(split.fit)] == [
        [0, 1, 2, 3, 5, 6, 7, 8],
        [1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008],
    ]
    assert [sum(own.sizes) for own in own_parts(Spread(split.fit, 4))] == [8, 4]
    assert cuts(Spread(split.fit, 4)) == ((4,), (False, True), (False, True))
    assert own_parts(split.fit.sources[0] if isinstance(split.fit, Interleaved) else None) == ()


def test_whose_data_it_is_counts() -> None:
    class Named(Source):
        def digest(self) -> str:
            return str(self.sizes)

    one, other = Named([{"x": np.zeros((2, 1))}]), Named([{"x": np.zeros((3, 1))}])
    assert Interleaved((one, other), 4, mixed=True).digest() != Interleaved((other, one), 4, mixed=True).digest()
