"""Parts of a calibration source: some of it from all over, or all but what is kept to judge by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from onnxmerge.calibration.chunks import Feed
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.errors import InputError
from onnxmerge.types import Array

HELD_OUT = 5
"""One sample in so many is held out."""


@dataclass(slots=True)
class Spread:
    """About ``samples`` of a source, whole feeds from all over it, whatever order the data is in; a source itself.

    The first pass counts the source's feeds where they are not known.
    """

    source: CalibrationSource
    samples: int
    _feeds: int = field(default=0, init=False)
    _wanted: int = field(default=0, init=False)

    @property
    def batches(self) -> int | None:
        """How many feeds a pass gives, once one has begun."""
        return self._wanted or None

    def __iter__(self) -> Iterator[Feed]:
        """Begin a pass."""
        return (feed for _, feed in self.placed())

    def placed(self) -> Iterator[tuple[int, Feed]]:
        """Each feed with the place of its first row in the source."""
        if not self._wanted:
            self._measure()
        place = 0
        for index, feed in enumerate(self.source):
            if index * self._wanted // self._feeds < (index + 1) * self._wanted // self._feeds:
                yield place, feed
            place += rows(feed)

    def digest(self) -> str:
        """SHA-256 of the whole source: what is taken of it is determined by it."""
        return self.source.digest()

    def _measure(self) -> None:
        """Settle how many feeds to take of how many."""
        feeds = iter(self.source)
        first = next(feeds, None)
        if first is not None:
            self._feeds = self.source.batches or 1 + sum(1 for _ in feeds)
            self._wanted = min(self._feeds, -(-self.samples // rows(first)))


@dataclass(slots=True)
class Share:
    """Every fifth sample of a source (``held``), or all the others; a source itself.

    Feeds are cut (``divisible``), or a whole feed counts as a sample.
    """

    source: CalibrationSource
    held: bool
    divisible: bool
    _batches: int | None = field(default=None, init=False)

    @property
    def batches(self) -> int | None:
        """How many feeds a pass gives: not known before one was made."""
        return self._batches

    def __iter__(self) -> Iterator[Feed]:
        """Begin a pass."""
        place = given = 0
        for feed in self.source:
            count = rows(feed) if self.divisible else 1
            mine = is_held(np.arange(place, place + count)) == self.held
            place += count
            if mine.any():
                given += 1
                yield {name: array[mine] for name, array in feed.items()} if self.divisible else feed
        self._batches = given

    def digest(self) -> str:
        """SHA-256 of the whole source, of which this is a part."""
        return self.source.digest()


def is_held(places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the samples at these places of a source are held out."""
    return np.equal(places % HELD_OUT, HELD_OUT - 1)


@dataclass(frozen=True, slots=True)
class Split:
    """A source in two: what statistics are taken of, and what is kept to judge by."""

    fit: Share
    held: Share

    def held_rows(self) -> NDArray[np.bool_]:
        """Which samples of the whole are in ``held``, bool [samples]; reads the source once."""
        sizes = [rows(feed) for feed in self.fit.source]
        if self.held.divisible:
            return is_held(np.arange(sum(sizes)))
        return np.repeat(is_held(np.arange(len(sizes))), sizes)


def hold_out(source: CalibrationSource, *, divisible: bool) -> Split:
    """Keep every fifth sample apart, whatever order the data is in.

    ``divisible`` says that the first axis of every input is the batch, of any size, so that feeds can be cut; else
    whole feeds are counted. Raises InputError where there are too few.
    """
    split = Split(Share(source, held=False, divisible=divisible), Share(source, held=True, divisible=divisible))
    if next(iter(split.held), None) is None:
        raise InputError(
            f"every fifth {'sample' if divisible else 'feed'} of the calibration data is held out to judge by, "
            "and there are fewer than five; give more data"
        )
    return split


def holds(source: CalibrationSource, samples: int) -> bool:
    """Whether a source has at least so many samples; reads no more of it than that takes."""
    return any(found >= samples for found in accumulate(map(rows, source)))


def rows(feed: Mapping[str, Array]) -> int:
    """The number of samples in a feed whose first axis is the batch."""
    return max((len(array) for array in feed.values() if array.ndim), default=1)
