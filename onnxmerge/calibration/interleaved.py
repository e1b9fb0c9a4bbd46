"""Data of several models, each with its own, as one source: every stretch of it has some of each.

What all models are measured on together is then a mixture of their tasks in which none comes first, as it should be
where samples of one batch share their statistics, or only some of the data is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import itemgetter

import numpy as np

from onnxmerge.calibration.chunks import Feed
from onnxmerge.calibration.sources import CalibrationSource


@dataclass(frozen=True, eq=False)
class Interleaved:
    """The samples of all ``sources``, in feeds of about ``size`` samples; a source itself.

    ``mixed``: samples of all sources have one shape and may stand in one feed, so each feed has of every source in
    proportion to what that holds. Else whole feeds take turns, in an order without a period.
    """

    sources: tuple[CalibrationSource, ...]
    size: int
    mixed: bool

    @cached_property
    def sizes(self) -> Sequence[int]:
        """The samples in each feed."""
        if self.mixed:
            return [sum(last - first for first, last in feed) for feed in self._ranges]
        return [self.sources[owner].sizes[place] for owner, place in self._turns]

    def __iter__(self) -> Iterator[Feed]:
        """Begin a pass."""
        return self.at(range(len(self.sizes)))

    def at(self, places: Sequence[int]) -> Iterator[Feed]:
        """The feeds at these places, in rising order."""
        if self.mixed:
            wanted = [self._ranges[place] for place in places]
            readings = [
                _stretches(source, [feed[owner] for feed in wanted]) for owner, source in enumerate(self.sources)
            ]
            for stretches in zip(*readings, strict=True):
                yield _joined([feed for own in stretches for feed in own])
            return
        turns = [self._turns[place] for place in places]
        own = [source.at([place for at, place in turns if at == owner]) for owner, source in enumerate(self.sources)]
        for owner, _ in turns:
            yield next(own[owner])

    def digest(self) -> str:
        """SHA-256 of all sources, in order."""
        return hashlib.sha256("\n".join(source.digest() for source in self.sources).encode()).hexdigest()

    @cached_property
    def _ranges(self) -> list[list[tuple[int, int]]]:
        """For each feed the first and the last sample (not included) of every source that are in it."""
        held = [sum(source.sizes) for source in self.sources]
        feeds = -(-sum(held) // self.size)
        starts = [at * feeds // len(held) for at in range(len(held))]  # so that small sources do not meet in one feed
        bounds = [
            [(feed * size + start) // feeds for feed in range(feeds + 1)]
            for size, start in zip(held, starts, strict=True)
        ]
        found = [[(own[feed], own[feed + 1]) for own in bounds] for feed in range(feeds)]
        return [feed for feed in found if any(first < last for first, last in feed)]

    @cached_property
    def _turns(self) -> list[tuple[int, int]]:
        """The source of each feed, and its place there. Every few feeds of a regular order would be of one source."""
        rng, found = np.random.default_rng(0), list[tuple[float, int, int]]()
        for owner, source in enumerate(self.sources):
            feeds = len(source.sizes)
            found += [((place + float(rng.random())) / feeds, owner, place) for place in range(feeds)]
        return [(owner, place) for _, owner, place in sorted(found, key=itemgetter(0))]


def _stretches(source: CalibrationSource, ranges: Sequence[tuple[int, int]]) -> Iterator[list[Feed]]:
    """What a source has in each of some ranges of samples, in rising order, in pieces."""
    ends = [0, *accumulate(source.sizes)]
    places = [
        place
        for place in range(len(ends) - 1)
        if any(first < ends[place + 1] and ends[place] < last for first, last in ranges if first < last)
    ]
    feeds = zip(places, source.at(places), strict=True)
    place, feed = -1, Feed()
    for start, last in ranges:
        first, found = start, list[Feed]()
        while first < last:
            while ends[place + 1] <= first:
                place, feed = next(feeds)
            stop = min(last, ends[place + 1])
            found.append({name: array[first - ends[place] : stop - ends[place]] for name, array in feed.items()})
            first = stop
        yield found


def _joined(feeds: Sequence[Feed]) -> Feed:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
