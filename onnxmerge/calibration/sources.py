"""Where calibration data comes from: one interface over arrays, files, folders, images and readers.

A source is a value that can be iterated any number of times, since statistics and repair need several passes. Every
iteration has a position of its own. Data is unlabelled and may be anything the model can run on.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from onnxmerge.calibration.chunks import ARRAY_SUFFIXES, Chunks, Feed, array_chunks, file_chunks, folder_chunks
from onnxmerge.calibration.findings import Findings, Seen
from onnxmerge.calibration.foreign import Foreign
from onnxmerge.calibration.images import IMAGE_SUFFIXES, ImageOptions, Layout, image_chunks
from onnxmerge.calibration.readers import Reader, is_script, reader_chunks, script_chunks
from onnxmerge.calibration.specs import InputSpec, fixed_batch, is_batched
from onnxmerge.errors import InputError, UsageError
from onnxmerge.files import is_folder, named, require_file
from onnxmerge.types import Array

BATCH_SIZE = 64
"""Default number of samples that run at once."""

ENDLESS = 1 << 14
"""Samples of a program's data that are used at most where nobody says how many: it may never end."""

SourceSpec = (
    str | Path | Array | Mapping[str, Array] | Reader | Iterable[Mapping[str, Array] | Array] | Callable[[], object]
)


class CalibrationSource(Protocol):
    """Feeds for a model, {input: array}: each iteration is a pass over the same data."""

    @property
    def batches(self) -> int | None:
        """How many feeds a pass gives, where known."""
        ...

    def __iter__(self) -> Iterator[Feed]:
        """Begin a pass at the first sample; passes may overlap."""
        ...

    def digest(self) -> str:
        """SHA-256 (hex) of the data that a pass uses."""
        ...


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
) -> OpenedSource:
    """A source for a model with these ``inputs``.

    ``spec`` is a path to a .npy or .npz file, a folder of these or of images, or `script.py:function`; in Python also
    an array, a dict of arrays, a reader, an iterable of feeds, or a function that returns one of the latter two.
    Feeds hold ``batch_size`` samples, or exactly as many as the model fixes (then an incomplete last batch is left
    out). Where axis 0 is not the batch of every input, each file or feed is one feed, as it is. ``samples`` takes the
    first so many; of a folder of images, so many evenly spaced ones. Where it is not given, data that a program makes
    is read up to ``endless`` samples.

    ``image_size`` (side, or height and width), ``mean``, ``std`` and ``layout`` are for images: see `ImageOptions`.

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
    return OpenedSource(chunks, batched=batched, size=size_at_once, exact=exact, samples=samples, endless=endless)


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
    """Cuts chunks into batches. The data is hashed during the first whole pass.

    ``found`` is what that pass found out: None before.
    """

    chunks: Chunks
    batched: bool
    size: int
    exact: bool
    samples: int | None
    endless: int
    found: Findings | None = None

    @property
    def batches(self) -> int | None:
        """How many feeds a pass gives, where known."""
        if self.found is not None or self.chunks.rows is None:
            return None if self.found is None else self.found.batches
        rows = self.chunks.rows if self.samples is None else min(self.samples, self.chunks.rows)
        return rows // self.size if self.exact else -(-rows // self.size)

    def __iter__(self) -> Iterator[Feed]:
        """Begin a pass. Raises InputError at its end where it gave nothing."""
        pass_ = _Pass()
        seen = None if self.found is not None else defaultdict[str, Seen](Seen)
        batches = rows = 0
        for feed in self._cut(pass_):
            batches, rows = batches + 1, rows + max((len(array) for array in feed.values() if array.ndim), default=1)
            if seen is not None:
                for name, array in feed.items():
                    seen[name].update(array, rows=self.batched)
            yield feed
        if not batches:
            held = f"fewer than the {self.size} samples that the model takes at once" if self.exact else "no samples"
            raise InputError(f"{self.chunks.origin}: holds {held}")
        if seen is not None:
            self.found = Findings(batches, rows, pass_.stopped, seen)

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

    def _cut(self, pass_: _Pass) -> Iterator[Feed]:
        """Batches of one pass. Rows of another shape (a longer recording) begin another batch."""
        if not self.batched:
            yield from self._taken(pass_)
            return
        held: list[Feed] = []
        count = 0
        for chunk in self._taken(pass_):
            if held and _trailing(held[0]) != _trailing(chunk):
                yield from self._rest(held)
                held, count = [], 0
            first, rows = 0, _rows(chunk)
            while first < rows:
                take = min(rows - first, self.size - count)
                held.append({name: array[first : first + take] for name, array in chunk.items()})
                first, count = first + take, count + take
                if count == self.size:
                    yield _joined(held)
                    held, count = [], 0
        yield from self._rest(held)

    def _taken(self, pass_: _Pass) -> Iterator[Feed]:
        """Chunks of one pass, up to as many samples as are wanted; a chunk without any counts as one."""
        left = self.samples if self.samples is not None else self.endless if self.chunks.endless else None
        for chunk in self.chunks.start():
            if left is None:
                yield chunk
                continue
            if left == 0:  # only a program without end is asked for more than is wanted, to tell it from others
                pass_.stopped = True
                return
            rows = min(left, _rows(chunk)) if self.batched else 1
            left -= max(rows, 1)
            yield {name: array[:rows] for name, array in chunk.items()} if self.batched else chunk
            if left == 0 and self.samples is not None:
                return

    def _rest(self, held: Sequence[Feed]) -> Iterator[Feed]:
        if held and not self.exact:
            yield _joined(held)


@dataclass(slots=True, eq=False)
class _Pass:
    """Whether a pass was ended before the data was."""

    stopped: bool = False


def _rows(feed: Feed) -> int:
    return int(next(iter(feed.values())).shape[0])


def _trailing(feed: Feed) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in feed.values()]


def _joined(feeds: Sequence[Feed]) -> Feed:
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
