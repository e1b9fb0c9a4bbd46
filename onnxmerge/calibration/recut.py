"""The feeds of a source in batches of another size, for a model that turns out to take only that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxmerge.calibration.chunks import Feed, rows
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.errors import InputError


@dataclass(frozen=True, eq=False)
class Recut:
    """A source whose feeds hold ``size`` samples each; what is left of samples of one shape is left out."""

    source: CalibrationSource
    size: int

    @cached_property
    def sizes(self) -> Sequence[int]:
        """The samples in each feed: their shapes decide, so a pass is made."""
        return [rows(feed) for feed in self]

    def at(self, places: Sequence[int]) -> Iterator[Feed]:
        """The feeds at these places, in rising order."""
        wanted = frozenset(places)
        return (feed for place, feed in enumerate(self) if place in wanted)

    def __iter__(self) -> Iterator[Feed]:
        """Begin a pass."""
        held: Feed = {}
        count = 0
        for given in self.source:
            feed = given
            if held and all(held[name].shape[1:] == array.shape[1:] for name, array in feed.items()):
                feed = {name: np.concatenate([held[name], array]) for name, array in feed.items()}
            length = min(map(len, feed.values()))
            whole = length - length % self.size
            for first in range(0, whole, self.size):
                count += 1
                yield {name: array[first : first + self.size] for name, array in feed.items()}
            held = {name: array[whole:] for name, array in feed.items()} if whole < length else {}
        if not count:
            raise InputError(f"the calibration data holds fewer than the {self.size} samples that the model takes")

    def digest(self) -> str:
        """SHA-256 of the whole source, what is left out included."""
        return self.source.digest()
