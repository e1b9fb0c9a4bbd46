"""Parts of a calibration source: some of it from all over, or all but what is kept to judge by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from onnxmerge.calibration.chunks import Feed, rows
from onnxmerge.calibration.interleaved import Interleaved
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.errors import InputError

HELD_OUT = 5
"""One sample in so many is held out."""


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """Feeds that were read of a source with the digest ``sha256``; a source itself, that other processes can have."""

    feeds: tuple[Feed, ...]
    sha256: str

    @property
    def sizes(self) -> Sequence[int]:
        """The samples in each feed."""
        return [rows(feed) for feed in self.feeds]

    def __iter__(self) -> Iterator[Feed]:
        """Begin a pass."""
        return iter(self.feeds)

    def at(self, places: Sequence[int]) -> Iterator[Feed]:
        """The feeds at these places, in rising order."""
        return (self.feeds[place] for place in places)

    def digest(self) -> str:
        """SHA-256 of the source that they were read from."""
        return self.sha256


def gathered(source: CalibrationSource) -> Gathered:
    """All of a source, read."""
    return Gathered(tuple(source), source.digest())


@dataclass(frozen=True, eq=False)
class Spread:
    """About ``samples`` of a source, whole feeds from all over it, whatever order the data is in; a source itself."""

    source: CalibrationSource
    samples: int

    @cached_property
    def sizes(self) -> Sequence[int]:
        """The samples in each feed."""
        every = self.source.sizes
        return [every[place] for place in self._chosen]

    def __iter__(self) -> Iterator[Feed]:
        """Begin a pass."""
        return self.source.at(self._chosen)

    def at(self, places: Sequence[int]) -> Iterator[Feed]:
        """The feeds at these places, in rising order."""
        return self.source.at([self._chosen[place] for place in places])

    def __reduce__(self) -> tuple[type[Gathered], tuple[tuple[Feed, ...], str]]:
        """What another process gets of it: the feeds that it takes, and nothing of how they are read."""
        return Gathered, (tuple(self), self.digest())

    def placed(self) -> Iterator[tuple[int, Feed]]:
        """Each feed with the place of its first sample in the source."""
        first = [0, *accumulate(self.source.sizes)]
        return ((first[place], feed) for place, feed in zip(self._chosen, self, strict=True))

    def digest(self) -> str:
        """SHA-256 of the whole source: what is taken of it is determined by it."""
        return self.source.digest()

    @cached_property
    def _chosen(self) -> list[int]:
        """Which feeds of the source are taken."""
        sizes = self.source.sizes
        every = len(sizes)
        wanted = min(every, -(-self.samples // max(sizes[0], 1))) if every else 0
        return [place for place in range(every) if place * wanted // every < (place + 1) * wanted // every]


@dataclass(frozen=True, eq=False)
class Share:
    """Every fifth sample of a source (``held``), or all the others; a source itself.

    Feeds are cut (``divisible``), or a whole feed counts as a sample.
    """

    source: CalibrationSource
    held: bool
    divisible: bool

    @cached_property
    def sizes(self) -> Sequence[int]:
        """The samples in each feed."""
        every = self.source.sizes
        return [int(mine.sum()) if self.divisible else every[place] for place, mine in self._parts]

    def __iter__(self) -> Iterator[Feed]:
        """Begin a pass."""
        return self.at(range(len(self._parts)))

    def at(self, places: Sequence[int]) -> Iterator[Feed]:
        """The feeds at these places, in rising order."""
        parts = [self._parts[place] for place in places]
        for (_, mine), feed in zip(parts, self.source.at([place for place, _ in parts]), strict=True):
            yield {name: array[mine] for name, array in feed.items()} if self.divisible else feed

    def digest(self) -> str:
        """SHA-256 of the whole source, of which this is a part."""
        return self.source.digest()

    @cached_property
    def _parts(self) -> list[tuple[int, NDArray[np.bool_]]]:
        """The places of the source's feeds of which something is in this share, and which of their samples are."""
        counts = self.source.sizes if self.divisible else [1] * len(self.source.sizes)
        ends = list(accumulate(counts))
        shares = [is_held(np.arange(end - size, end)) == self.held for end, size in zip(ends, counts, strict=True)]
        return [(place, mine) for place, mine in enumerate(shares) if mine.any()]


def is_held(places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the samples at these places of a source are held out."""
    return np.equal(places % HELD_OUT, HELD_OUT - 1)


def cuts(source: CalibrationSource) -> tuple[tuple[int | bool, ...], ...]:
    """What is taken of the whole source, the last cut first: with the whole it says which samples these are."""
    if isinstance(source, Spread):
        return ((source.samples,), *cuts(source.source))
    if isinstance(source, Share):
        return ((source.held, source.divisible), *cuts(source.source))
    if isinstance(source, Interleaved):
        return tuple(cut for own in source.sources for cut in cuts(own))
    return ()


def own_parts(source: CalibrationSource | None) -> tuple[CalibrationSource, ...]:
    """What of a source is of each model's own, where it was put together of such (``Interleaved``); else nothing."""
    if isinstance(source, Spread):
        parts = own_parts(source.source)
        return tuple(Spread(own, -(-source.samples // len(parts))) for own in parts)
    return source.sources if isinstance(source, Interleaved) else ()


@dataclass(frozen=True, eq=False)
class Split:
    """A source, the ``whole``, in two: what statistics are taken of, and what is kept to judge by."""

    whole: CalibrationSource
    divisible: bool

    @cached_property
    def fit(self) -> CalibrationSource:
        """What statistics are taken of."""
        return self._share(held=False)

    @cached_property
    def held(self) -> CalibrationSource:
        """What is kept to judge by; of data of several models, every fifth sample of each."""
        return self._share(held=True)

    def held_rows(self) -> NDArray[np.bool_]:
        """Which samples of the whole, data that is not of several models, are in ``held``, bool [samples]."""
        sizes = self.whole.sizes
        if self.divisible:
            return is_held(np.arange(sum(sizes)))
        return np.repeat(is_held(np.arange(len(sizes))), sizes)

    def _share(self, *, held: bool) -> CalibrationSource:
        if isinstance(self.whole, Interleaved):
            parts = [Share(own, held=held, divisible=self.divisible) for own in self.whole.sources]
            return replace(self.whole, sources=tuple(parts))
        return Share(self.whole, held=held, divisible=self.divisible)


def hold_out(source: CalibrationSource, *, divisible: bool) -> Split:
    """Keep every fifth sample apart, whatever order the data is in.

    ``divisible`` says that the first axis of every input is the batch, of any size, so that feeds can be cut; else
    whole feeds are counted. Raises InputError where there are too few.
    """
    split = Split(source, divisible)
    if not split.held.sizes:
        raise InputError(
            f"every fifth {'sample' if divisible else 'feed'} of the calibration data is held out to judge by, "
            "and there are fewer than five; give more data"
        )
    return split


def holds(source: CalibrationSource, samples: int) -> bool:
    """Whether a source has at least so many samples."""
    return sum(source.sizes) >= samples
