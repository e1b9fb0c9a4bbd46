"""The feeds of a source in batches of another size, for a model that turns out to take only that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from onnxmerge.calibration.chunks import Feed
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.errors import InputError


@dataclass(slots=True, eq=False)
class Recut:
    """A source whose feeds hold ``size`` samples each; what is left of samples of one shape is left out."""

    source: CalibrationSource
    size: int
    _batches: int | None = field(default=None, init=False)

    @property
    def batches(self) -> int | None:
        """How many feeds a pass gives: not known before one was made."""
        return self._batches

    def __iter__(self) -> Iterator[Feed]:
        """Begin a pass."""
        held: Feed = {}
        count = 0
        for given in self.source:
            feed = given
            if held and all(held[name].shape[1:] == array.shape[1:] for name, array in feed.items()):
                feed = {name: np.concatenate([held[name], array]) for name, array in feed.items()}
            rows = min(map(len, feed.values()))
            whole = rows - rows % self.size
            for first in range(0, whole, self.size):
                count += 1
                yield {name: array[first : first + self.size] for name, array in feed.items()}
            held = {name: array[whole:] for name, array in feed.items()} if whole < rows else {}
        if not count:
            raise InputError(f"the calibration data holds fewer than the {self.size} samples that the model takes")
        self._batches = count

    def digest(self) -> str:
        """SHA-256 of the whole source, what is left out included."""
        return self.source.digest()
