"""The beginning of a calibration source: enough data for statistics of few numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxmerge.calibration.chunks import Feed
from onnxmerge.calibration.sources import CalibrationSource


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
            self._rows += max((len(array) for array in feed.values() if array.ndim), default=1)
        return feed

    def rewind(self) -> None:
        """Start another pass."""
        self.source.rewind()
        self._rows = 0

    def digest(self) -> str:
        """SHA-256 of the whole source: its beginning is determined by it."""
        return self.source.digest()
