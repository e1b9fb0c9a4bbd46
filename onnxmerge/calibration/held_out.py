"""Keep some of the calibration data from everything that is measured or fitted, to judge the result by."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxmerge.calibration.chunks import Feed
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.errors import UsageError


@dataclass(slots=True)
class Feeds:
    """The feeds of a source from number ``first`` to before ``stop``; a source itself."""

    source: CalibrationSource
    first: int
    stop: int
    _next: int = field(default=0, init=False)

    @property
    def batches(self) -> int | None:
        """How many feeds a pass gives."""
        return self.stop - self.first

    def get_next(self) -> Feed | None:
        """The next feed, or None at the end of the pass."""
        feed = None
        while self._next < self.stop:
            feed = self.source.get_next()
            self._next += 1
            if feed is None or self._next > self.first:
                return feed
        return None

    def rewind(self) -> None:
        """Start another pass."""
        self.source.rewind()
        self._next = 0

    def digest(self) -> str:
        """SHA-256 of the whole source."""
        return self.source.digest()


def split(source: CalibrationSource, fraction: float) -> tuple[CalibrationSource, CalibrationSource]:
    """The source without its last feeds, and these: about ``fraction`` of all, but at least one.

    Nothing is held out where ``fraction`` is 0: then both are the source itself. Raises UsageError where there is only
    one feed.
    """
    if not fraction:
        return source, source
    source.rewind()
    count = 0
    while source.get_next() is not None:
        count += 1
    source.rewind()
    if count < 2:
        raise UsageError(
            f"--held-out {fraction:g}: the calibration data is a single batch; "
            "give more of it, or a smaller --batch-size"
        )
    cut = count - min(max(round(fraction * count), 1), count - 1)
    return Feeds(source, 0, cut), Feeds(source, cut, count)
