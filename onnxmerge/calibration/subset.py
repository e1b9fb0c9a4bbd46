"""Parts of a calibration source: its beginning, or all but what is kept to judge by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxmerge.calibration.chunks import Feed
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.specs import Array
from onnxmerge.errors import InputError

HELD_OUT = 5
"""One sample in so many is held out, at the end."""


@dataclass(slots=True)
class FirstSamples:
    """The feeds of a source until ``samples`` rows have gone by; a source itself."""

    source: CalibrationSource
    samples: int
    _rows: int = field(default=0, init=False)

    @property
    def batches(self) -> int | None:
        """How many feeds a pass gives: not known before it was made."""
        return None

    def get_next(self) -> Feed | None:
        """The next feed, or None at the end of the pass."""
        if self._rows >= self.samples:
            return None
        feed = self.source.get_next()
        if feed is not None:
            self._rows += rows(feed)
        return feed

    def rewind(self) -> None:
        """Start another pass."""
        self.source.rewind()
        self._rows = 0

    def digest(self) -> str:
        """SHA-256 of the whole source: its beginning is determined by it."""
        return self.source.digest()


@dataclass(slots=True)
class Part:
    """The samples ``start`` to ``stop`` of a source; a source itself.

    Feeds are cut where the part begins or ends inside one (``divisible``); else a sample is a whole feed.
    """

    source: CalibrationSource
    start: int
    stop: int
    divisible: bool
    batches: int | None = None
    _place: int = field(default=0, init=False)

    def get_next(self) -> Feed | None:
        """The next feed, or None at the end of the pass."""
        while self._place < self.stop and (feed := self.source.get_next()) is not None:
            first = self._place
            self._place += rows(feed) if self.divisible else 1
            if self._place <= self.start:
                continue
            if not self.divisible:
                return feed
            inside = slice(max(self.start - first, 0), self.stop - first)
            return {name: array[inside] for name, array in feed.items()}
        return None

    def rewind(self) -> None:
        """Start another pass."""
        self.source.rewind()
        self._place = 0

    def digest(self) -> str:
        """SHA-256 of the whole source, of which this is a part."""
        return self.source.digest()


@dataclass(frozen=True, slots=True)
class Split:
    """A source in two: what statistics are taken of, and what is kept to judge by.

    ``samples`` are those of the whole, ``border`` those before ``held``: rows, where the first axis is the batch.
    """

    fit: Part
    held: Part
    samples: int
    border: int


def hold_out(source: CalibrationSource, *, divisible: bool) -> Split:
    """Keep the last fifth of the samples apart, at least one.

    ``divisible`` says that the first axis of every input is the batch, of any size, so that feeds can be cut; else
    whole feeds are counted. Reads the source once. Raises InputError where there is nothing to divide.
    """
    source.rewind()
    sizes = []
    while (feed := source.get_next()) is not None:
        sizes.append(rows(feed))
    units = sizes if divisible else [1] * len(sizes)
    total = sum(units)
    if total < 2:
        raise InputError(
            f"a fifth of the calibration data is held out to judge by: found {total} "
            f"{'sample' if divisible else 'feed'}, expected 2 or more"
        )
    border = total - max(total // HELD_OUT, 1)
    starts = np.cumsum([0, *units])
    before, after = int(np.sum(starts[:-1] < border)), int(np.sum(starts[1:] > border))
    return Split(
        Part(source, 0, border, divisible, before),
        Part(source, border, total, divisible, after),
        sum(sizes),
        border if divisible else sum(sizes[:border]),
    )


def rows(feed: Mapping[str, Array]) -> int:
    """The number of samples in a feed whose first axis is the batch."""
    return max((len(array) for array in feed.values() if array.ndim), default=1)
