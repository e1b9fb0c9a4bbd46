"""Where calibration data comes from: one interface over arrays, files, folders, images and readers.

A source is a value: it can be iterated any number of times, since statistics and repair need several passes, it knows
how many samples each of its feeds has, and gives some of them by their places. Every iteration has a position of its
own. What is read is kept as long as there is room, so most data is read and decoded once. Data is unlabelled and may be
anything the model can run on.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from onnxmerge.calibration.chunks import (
    ARRAY_SUFFIXES,
    Chunks,
    Feed,
    array_chunks,
    file_chunks,
    folder_chunks,
    nbytes,
    owned,
    rows,
)
from onnxmerge.calibration.findings import Findings, Seen, checksum
from onnxmerge.calibration.foreign import Foreign
from onnxmerge.calibration.images import IMAGE_SUFFIXES, ImageOptions, Layout, image_chunks
from onnxmerge.calibration.readers import Reader, is_script, reader_chunks, script_chunks
from onnxmerge.calibration.specs import InputSpec, fixed_batch, is_batched
from onnxmerge.errors import InputError, UsageError
from onnxmerge.files import is_folder, named, require_file
from onnxmerge.memory import room_for
from onnxmerge.types import Array

BATCH_SIZE = 64
"""Default number of samples that run at once."""

ENDLESS = 1 << 14
"""Samples of a program's data that are used at most where nobody says how many: it may never end."""

SourceSpec = (
    str | Path | Array | Mapping[str, Array] | Reader | Iterable[Mapping[str, Array] | Array] | Callable[[], object]
)


KEPT = 1 << 28
"""Bytes of feeds that are kept for the next pass at most, where a job makes several."""

KEPT_SHARE = 8
"""And at most so small a part of the memory that may be taken."""


class CalibrationSource(Protocol):
    """Feeds for a model, {input: array}: each iteration is a pass over the same data."""

    @property
    def sizes(self) -> Sequence[int]:
        """The samples in each feed. Where that is not known without reading the data, it is read."""
        ...

    def __iter__(self) -> Iterator[Feed]:
        """Begin a pass at the first sample; passes may overlap."""
        ...

    def at(self, places: Sequence[int]) -> Iterator[Feed]:
        """The feeds at these places, in rising order; no others are read where the data can be had by its place."""
        ...

    def digest(self) -> str:
        """SHA-256 (hex) of the data that a pass uses."""
        ...


def room_for_feeds() -> int:
    """Bytes of feeds that a job may keep."""
    return room_for(KEPT, KEPT_SHARE)


def open_source(
    spec: SourceSpec,
    inputs: Sequence[InputSpec],
    *,
    samples: int | None = None,
    endless: int = ENDLESS,
    batch_size: int = BATCH_SIZE,
    image_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layout: Layout | None = None,
    room: int = 0,
) -> OpenedSource:
    """A source for a model with these ``inputs``.

    ``spec`` is a path to a .npy or .npz file, a folder of these or of images, or `script.py:function`; in Python also
    an array, a dict of arrays, a reader, an iterable of feeds, or a function that returns one of the latter two.
    Feeds hold ``batch_size`` samples, or exactly as many as the model fixes (then an incomplete last batch is left
    out). Where axis 0 is not the batch of every input, each file or feed is one feed, as it is. ``samples`` takes the
    first so many; of a folder of images, so many evenly spaced ones. Where it is not given, data that a program makes
    is read up to ``endless`` samples.

    ``image_size`` (side, or height and width), ``mean``, ``std`` and ``layout`` are for images: see `ImageOptions`.
    Feeds are kept as they are read, up to ``room`` bytes of them, and not read again.

    Raises:
        InputError: the data cannot be read or is not what the model takes. Also raised later, as it is read.
        UsageError: an option does not make sense.

    """
    if not inputs:
        raise InputError("the model has no inputs; there is nothing to calibrate with")
    if batch_size < 1 or (samples is not None and samples < 1):
        raise UsageError(f"samples and batch size must be at least 1, found {samples} and {batch_size}")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and min(size) < 1:
        raise UsageError(f"image size must be positive, found {image_size}")
    images = ImageOptions(size, None if mean is None else tuple(mean), None if std is None else tuple(std), layout)
    batched = is_batched(inputs)
    chunks = _chunks(spec, inputs, images, samples, batched=batched)
    if images != ImageOptions() and not chunks.images:
        raise UsageError(
            f"{chunks.origin}: holds arrays, which are taken as they are; --image-size, --mean, --std and --layout are "
            "for folders of images"
        )
    fixed = fixed_batch(inputs) if batched else None
    size_at_once, exact = fixed or batch_size, fixed is not None
    return OpenedSource(chunks, batched, size_at_once, exact, samples, endless, room)


def _chunks(
    spec: SourceSpec, inputs: Sequence[InputSpec], images: ImageOptions, samples: int | None, *, batched: bool
) -> Chunks:
    if isinstance(spec, str) and is_script(spec):
        return script_chunks(spec, inputs, batched=batched)
    if isinstance(spec, str | Path):
        return _path_chunks(Path(spec).absolute(), inputs, images, samples, batched=batched)
    if isinstance(spec, np.ndarray):
        return array_chunks({"the array": spec}, inputs, "calibration array", batched=batched)
    if isinstance(spec, Mapping):
        return array_chunks(spec, inputs, "calibration arrays", batched=batched)
    return reader_chunks(spec, inputs, Foreign(f"calibration {type(spec).__name__}"), batched=batched)


def _path_chunks(
    path: Path, inputs: Sequence[InputSpec], images: ImageOptions, samples: int | None, *, batched: bool
) -> Chunks:
    if is_folder(path):
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        arrays = [p for p in files if p.suffix.lower() in ARRAY_SUFFIXES]
        pictures = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
        if arrays and pictures:
            raise InputError(
                f"{named(path)}: holds both arrays ({arrays[0].name}) and images ({pictures[0].name}); keep one kind"
            )
        if arrays:
            return folder_chunks(path, arrays, inputs, batched=batched)
        if pictures:
            return image_chunks(path, pictures, inputs, images, samples)
        raise InputError(f"{named(path)}: holds no .npy, .npz or image file")
    require_file(path, "calibration data")
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        raise InputError(
            f"{named(path)}: a .npy or .npz file, a folder of these or of images, or script.py:function is expected"
        )
    return file_chunks(path, inputs, batched=batched)


@dataclass(slots=True, eq=False)
class OpenedSource:
    """Cuts chunks into batches, and keeps as many as there is ``room`` for, in bytes.

    The data is hashed during the first whole pass. ``found`` is what that pass found out: None before.
    """

    chunks: Chunks
    batched: bool
    size: int
    exact: bool
    samples: int | None
    endless: int
    room: int = 0
    found: Findings | None = None
    _kept: dict[int, Feed] = field(default_factory=dict)
    _open: tuple[int, Iterator[Feed]] | None = None
    """A reading that was begun, and the place of the feed that comes next: whoever wants that one goes on with it."""
    _stopped: bool = False

    @property
    def batches(self) -> int | None:
        """How many feeds a pass gives, where that is known without reading the data."""
        return None if (sizes := self._known_sizes()) is None else len(sizes)

    @property
    def sizes(self) -> Sequence[int]:
        """The samples in each feed; the data is read where that is not known."""
        known = self._known_sizes()
        return self.findings().sizes if known is None else known

    def __iter__(self) -> Iterator[Feed]:
        """Begin a pass. Raises InputError at its end where it gave nothing."""
        seen = None if self.found is not None else defaultdict[str, Seen](Seen)
        sizes: list[int] = []
        checksums: list[int] = []
        for feed in self._feeds():
            sizes.append(rows(feed))
            if seen is not None:
                checksums.append(checksum(feed))
                for name, array in feed.items():
                    seen[name].update(array, rows=self.batched)
            yield feed
        if not sizes:
            raise self._nothing()
        if seen is not None:
            self.found = Findings(tuple(sizes), tuple(checksums), self._stopped, seen)

    def at(self, places: Sequence[int]) -> Iterator[Feed]:
        """The feeds at these places, in rising order."""
        if self.chunks.between is not None:
            for place in places:
                yield from islice(self._feeds(place), 1)
        elif places:
            wanted = frozenset(places)
            for place, feed in enumerate(islice(self._feeds(), max(places) + 1)):
                if place in wanted:
                    yield feed

    def digest(self) -> str:
        """SHA-256 (hex) of the data that a pass uses."""
        return self.findings().digest

    def findings(self) -> Findings:
        """What a whole pass finds out; one is made where there was none yet."""
        if self.found is None:
            deque(self, maxlen=0)
        if self.found is None:  # pragma: no cover - a whole pass always sets it
            raise InputError(f"{self.chunks.origin}: could not be read to its end")
        return self.found

    def notes(self) -> list[str]:
        """What the user should know about the data, from a whole pass over it."""
        found, origin = self.findings(), self.chunks.origin
        told = list(self.chunks.notes)
        if found.stopped:
            told.append(f"{origin}: only its first {self.endless:,} samples were used; --samples says how many")
        if found.zero or (found.constant and found.rows > 1):
            what = "all zero" if found.zero else "all equal"
            told.append(f"{origin}: {found.rows:,} samples, {what}: they say nothing about which units are alike")
        return told

    def _known_sizes(self) -> tuple[int, ...] | None:
        if self.found is not None or self.chunks.rows is None:
            return None if self.found is None else self.found.sizes
        samples = self.chunks.rows if self.samples is None else min(self.samples, self.chunks.rows)
        whole, rest = divmod(samples, self.size)
        sizes = (self.size,) * whole + ((rest,) if rest and not self.exact else ())
        if not sizes:
            raise self._nothing()
        return sizes

    def _nothing(self) -> InputError:
        held = f"fewer than the {self.size} samples that the model takes at once" if self.exact else "no samples"
        return InputError(f"{self.chunks.origin}: holds {held}")

    def _feeds(self, place: int = 0) -> Iterator[Feed]:
        """The feeds from one on: those that are kept, and those that a reading gives."""
        own: tuple[int, Iterator[Feed]] | None = None
        while self.found is None or place < len(self.found.sizes):
            feed = self._kept.get(place)
            if feed is None:
                if own is None or own[0] != place:
                    own, self._open = self._open, None
                if own is None or own[0] != place:
                    own = place, self._cut(place)
                feed = next(own[1], None)
                if self.found is not None and (feed is None or checksum(feed) != self.found.checksums[place]):
                    raise InputError(
                        f"{self.chunks.origin}: gives other feeds when it is read again; have it give the same each "
                        "time (a fixed seed, no state that it keeps)"
                    )
                if feed is None:
                    return
                own = place + 1, own[1]
                if self._keep(place, feed):
                    self._open, own = own, None
            place += 1
            yield feed

    def _keep(self, place: int, feed: Feed) -> bool:
        """Keep a feed if there is room for it.

        Where the data can be had by its place and does not fit in whole, the first pass would fill the room with what
        comes first: it is left to those that want some of the data again and again.
        """
        size = nbytes(feed)
        if size > self.room:
            return False
        if self.found is None and self.chunks.between is not None and size * (len(self.sizes) - place) > self.room:
            return False
        self.room -= size
        self._kept[place] = feed if self.chunks.between is not None else owned(feed)
        return True

    def _cut(self, first: int) -> Iterator[Feed]:
        """The batches of one reading from number ``first`` on."""
        if self.chunks.between is None:
            yield from islice(self._batches(), first, None)
            return
        place = first * self.size
        for size in (self._known_sizes() or ())[first:]:
            yield self.chunks.between(place, place + size)
            place += size

    def _batches(self) -> Iterator[Feed]:
        """Batches of one reading. Rows of another shape (a longer recording) begin another batch."""
        if not self.batched:
            yield from self._taken()
            return
        held: list[Feed] = []
        count = 0
        for chunk in self._taken():
            if held and _trailing(held[0]) != _trailing(chunk):
                yield from self._rest(held)
                held, count = [], 0
            first, length = 0, _length(chunk)
            while first < length:
                take = min(length - first, self.size - count)
                held.append({name: array[first : first + take] for name, array in chunk.items()})
                first, count = first + take, count + take
                if count == self.size:
                    yield _joined(held)
                    held, count = [], 0
        yield from self._rest(held)

    def _taken(self) -> Iterator[Feed]:
        """Chunks of one reading, up to as many samples as are wanted; a chunk without any counts as one."""
        left = self.samples if self.samples is not None else self.endless if self.chunks.endless else None
        for chunk in self.chunks.start():
            if left is None:
                yield chunk
                continue
            if left == 0:  # only a program without end is asked for more than is wanted, to tell it from others
                self._stopped = True
                return
            length = min(left, _length(chunk)) if self.batched else 1
            left -= max(length, 1)
            yield {name: array[:length] for name, array in chunk.items()} if self.batched else chunk
            if left == 0 and self.samples is not None:
                return

    def _rest(self, held: Sequence[Feed]) -> Iterator[Feed]:
        if held and not self.exact:
            yield _joined(held)


def _length(chunk: Feed) -> int:
    return int(next(iter(chunk.values())).shape[0])


def _trailing(feed: Feed) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in feed.values()]


def _joined(feeds: Sequence[Feed]) -> Feed:
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
