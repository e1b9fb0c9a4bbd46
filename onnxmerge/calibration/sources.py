"""Where calibration data comes from: one interface over arrays, files, folders, images and readers.

The interface is that of ONNX Runtime's CalibrationDataReader, `get_next() -> {input: array} | None`, plus `rewind()`,
because statistics and repair need several passes. Data is unlabelled and may be anything the model can run on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from onnxmerge.calibration.chunks import ARRAY_SUFFIXES, Chunks, Feed, array_chunks, file_chunks, folder_chunks
from onnxmerge.calibration.images import IMAGE_SUFFIXES, ImageOptions, Layout, image_chunks
from onnxmerge.calibration.readers import Reader, is_script, reader_chunks, script_chunks
from onnxmerge.calibration.specs import Array, InputSpec, fixed_batch, is_batched
from onnxmerge.errors import InputError, UsageError

BATCH_SIZE = 64
"""Default number of samples that run at once."""

SourceSpec = (
    str | Path | Array | Mapping[str, Array] | Reader | Iterable[Mapping[str, Array] | Array] | Callable[[], object]
)


class CalibrationSource(Protocol):
    """Feeds for a model, in passes over the same data."""

    @property
    def batches(self) -> int | None:
        """How many feeds a pass gives, where known."""
        ...

    def get_next(self) -> Feed | None:
        """The next feed, or None at the end of the pass."""
        ...

    def rewind(self) -> None:
        """Start another pass from the first sample."""
        ...

    def digest(self) -> str:
        """SHA-256 (hex) of the data that a pass uses."""
        ...


def open_source(
    spec: SourceSpec,
    inputs: Sequence[InputSpec],
    *,
    samples: int | None = None,
    batch_size: int = BATCH_SIZE,
    image_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layout: Layout | None = None,
) -> CalibrationSource:
    """A source for a model with these ``inputs``.

    ``spec`` is a path to a .npy or .npz file, a folder of these or of images, or `script.py:function`; in Python also
    an array, a dict of arrays, a reader, an iterable of feeds, or a function that returns one of the latter two.
    Feeds hold ``batch_size`` samples, or exactly as many as the model fixes (then an incomplete last batch is left
    out). Where axis 0 is not the batch of every input, each file or feed is one feed, as it is. ``samples`` takes the
    first so many; of a folder of images, so many evenly spaced ones.

    ``image_size`` (side, or height and width), ``mean``, ``std`` and ``layout`` are for images: see `ImageOptions`.

    Raises:
        InputError: the data cannot be read or is not what the model takes. Also raised later, by ``get_next``.
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
    fixed = fixed_batch(inputs) if batched else None
    return _Source(chunks, batched=batched, size=fixed or batch_size, exact=fixed is not None, samples=samples)


def _chunks(
    spec: SourceSpec, inputs: Sequence[InputSpec], images: ImageOptions, samples: int | None, *, batched: bool
) -> Chunks:
    if isinstance(spec, str) and is_script(spec):
        return script_chunks(spec, inputs, batched=batched)
    if isinstance(spec, str | Path):
        return _path_chunks(Path(spec).resolve(), inputs, images, samples, batched=batched)
    if isinstance(spec, np.ndarray):
        return array_chunks({"the array": spec}, inputs, "calibration array", batched=batched)
    if isinstance(spec, Mapping):
        return array_chunks(spec, inputs, "calibration arrays", batched=batched)
    return reader_chunks(spec, inputs, f"calibration {type(spec).__name__}", batched=batched)


def _path_chunks(
    path: Path, inputs: Sequence[InputSpec], images: ImageOptions, samples: int | None, *, batched: bool
) -> Chunks:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        arrays = [p for p in files if p.suffix.lower() in ARRAY_SUFFIXES]
        pictures = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
        if arrays and pictures:
            raise InputError(
                f"{path}: holds both arrays ({arrays[0].name}) and images ({pictures[0].name}); keep one kind"
            )
        if arrays:
            return folder_chunks(path, arrays, inputs, batched=batched)
        if pictures:
            return image_chunks(path, pictures, inputs, images, samples)
        raise InputError(f"{path}: holds no .npy, .npz or image file")
    if not path.exists():
        raise InputError(f"{path}: no such calibration file or folder")
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        raise InputError(
            f"{path}: a .npy or .npz file, a folder of these or of images, or script.py:function is expected"
        )
    return file_chunks(path, inputs, batched=batched)


@dataclass(slots=True, eq=False)
class _Source:
    """Cuts chunks into batches. The data is hashed during the first whole pass."""

    chunks: Chunks
    batched: bool
    size: int
    exact: bool
    samples: int | None
    _pass: Iterator[Feed] | None = None
    _count: int = 0
    _batches: int | None = None
    _digest: str | None = None
    _hashes: dict[str, _Hash] = field(default_factory=dict)

    @property
    def batches(self) -> int | None:
        if self._batches is not None or self.chunks.rows is None:
            return self._batches
        rows = self.chunks.rows if self.samples is None else min(self.samples, self.chunks.rows)
        return rows // self.size if self.exact else -(-rows // self.size)

    def rewind(self) -> None:
        self._pass = None

    def get_next(self) -> Feed | None:
        if self._pass is None:
            self._pass, self._count, self._hashes = self._cut(), 0, {}
        feed = next(self._pass, None)
        if feed is None:
            self._end()
            return None
        self._count += 1
        if self._digest is None:
            for name, array in feed.items():
                self._hashes.setdefault(name, _Hash()).update(array)
        return feed

    def _end(self) -> None:
        if not self._count:
            held = f"fewer than the {self.size} samples that the model takes at once" if self.exact else "no samples"
            raise InputError(f"{self.chunks.origin}: holds {held}")
        self._batches = self._count
        if self._digest is None:
            parts = "\n".join(f"{name!r} {own.hexdigest()}" for name, own in sorted(self._hashes.items()))
            self._digest = hashlib.sha256(parts.encode()).hexdigest()

    def digest(self) -> str:
        if self._digest is None:
            self.rewind()
            while self.get_next() is not None:
                pass
            self.rewind()
        if self._digest is None:  # pragma: no cover - a whole pass always sets it
            raise InputError(f"{self.chunks.origin}: could not be read to its end")
        return self._digest

    def _cut(self) -> Iterator[Feed]:
        """Batches of one pass. Rows of another shape (a longer recording) begin another batch."""
        if not self.batched:
            yield from self._as_given()
            return
        left = self.samples
        held: list[Feed] = []
        for chunk in self.chunks.start():
            rows = _rows(chunk) if left is None else min(left, _rows(chunk))
            left = None if left is None else left - rows
            if held and _trailing(held[0]) != _trailing(chunk):
                yield from self._rest(held)
                held = []
            first = 0
            while first < rows:
                take = min(rows - first, self.size - sum(map(_rows, held)))
                held.append({name: array[first : first + take] for name, array in chunk.items()})
                first += take
                if sum(map(_rows, held)) == self.size:
                    yield _joined(held)
                    held = []
            if left == 0:
                break
        yield from self._rest(held)

    def _rest(self, held: Sequence[Feed]) -> Iterator[Feed]:
        if held and not self.exact:
            yield _joined(held)

    def _as_given(self) -> Iterator[Feed]:
        for count, chunk in enumerate(self.chunks.start()):
            if count == self.samples:
                return
            yield chunk


def _rows(feed: Feed) -> int:
    return int(next(iter(feed.values())).shape[0])


def _trailing(feed: Feed) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in feed.values()]


def _joined(feeds: Sequence[Feed]) -> Feed:
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


class _Hash:
    """SHA-256 of rows and of their type and shape, however they were cut into batches."""

    __slots__ = ("sha", "shape")

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self.shape: tuple[int, ...] | None = None

    def update(self, array: Array) -> None:
        if array.shape[1:] != self.shape:
            self.shape = array.shape[1:]
            self.sha.update(f"{array.dtype} {self.shape}".encode())
        self.sha.update(array.tobytes())

    def hexdigest(self) -> str:
        return self.sha.hexdigest()
