"""Arrays, .npy and .npz files, and folders of them, read a piece at a time.

A .npy file is memory-mapped, and so are the arrays that a .npz holds uncompressed; compressed ones are streamed out of
the archive. Pickled objects are never loaded.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np

from onnxmerge.calibration.specs import InputSpec, check_rows, check_shape, conform_all, select
from onnxmerge.errors import InputError, OnnxmergeError
from onnxmerge.files import named, require_file
from onnxmerge.memory import require_room
from onnxmerge.text import reason, shown
from onnxmerge.types import Array

Feed = dict[str, Array]

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})

_BLOCK_BYTES = 1 << 24

_MEMBERS = 10_000
"""Members of a .npz, at most: one array for each input is read."""

_BOMB_BYTES, _BOMB_RATIO = 1 << 30, 100
"""A member of more bytes that was compressed more than so many times is no data: reading it would take minutes."""

_ENCRYPTED = 1
"""The bit of a member's flags that says so (PKWARE APPNOTE, 4.4.4)."""

_LOCAL_HEADER = "<4s5H3L2H"
"""What precedes a member: its last two numbers are the lengths of a name and of extra notes (APPNOTE, 4.3.7)."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """Feeds that can be produced again and again, checked and in the inputs' dtypes.

    ``rows`` is the number of samples in all, where it is known beforehand, and ``between`` gives those from one place
    up to another as one feed, where that takes no reading of the others. ``origin`` names the data in messages.
    ``endless`` says that a program gives the data, which may never stop, ``images`` that it was made from images.
    ``notes`` are what the user should know, added (as keys) as data is read.
    """

    origin: str
    start: Callable[[], Iterator[Feed]]
    rows: int | None = None
    between: Callable[[int, int], Feed] | None = None
    endless: bool = False
    images: bool = False
    notes: dict[str, None] = field(default_factory=dict)


def rows(feed: Mapping[str, Array]) -> int:
    """The number of samples in a feed whose first axis is the batch."""
    return max((len(array) for array in feed.values() if array.ndim), default=1)


def nbytes(feed: Mapping[str, Array]) -> int:
    """The bytes that keeping a feed takes: none for what lies in a file that is mapped into memory."""
    return sum(0 if _is_mapped(array) else array.nbytes for array in feed.values())


def owned(feed: Feed) -> Feed:
    """The feed without the rest of a larger array of which it is a part, which would stay in memory as long as it."""
    return {name: array if _is_mapped(array) or _is_whole(array) else array.copy() for name, array in feed.items()}


def _is_mapped(array: Array) -> bool:
    return any(isinstance(base, np.memmap) for base in _bases(array))


def _is_whole(array: Array) -> bool:
    return all(isinstance(base, np.ndarray) and base.nbytes <= array.nbytes for base in _bases(array))


def _bases(array: Array) -> Iterator[object]:
    """The array, that which it is a view of, and so on."""
    base: object = array
    while base is not None:
        yield base
        base = base.base if isinstance(base, np.ndarray) else None


class _Column(Protocol):
    """One array, read from its first row on."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def itemsize(self) -> int: ...

    def whole(self) -> Array: ...

    def blocks(self, rows: int) -> Iterator[Array]: ...


@dataclass(frozen=True, slots=True, eq=False)
class _InMemory:
    """An array in memory, or mapped into it."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def itemsize(self) -> int:
        return self.array.itemsize

    def whole(self) -> Array:
        return self.array

    def blocks(self, rows: int) -> Iterator[Array]:
        for first in range(0, self.array.shape[0], rows):
            yield self.array[first : first + rows]


@dataclass(frozen=True, slots=True, eq=False)
class _Zipped:
    """One array of a .npz, decompressed as it is read."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    header: int = 0

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    def whole(self) -> Array:
        require_room(
            math.prod(self.shape) * self.itemsize, f"{named(self.path)}: {self.member} of {_sizes(self.shape)}"
        )
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    def blocks(self, rows: int) -> Iterator[Array]:
        if self.fortran:  # rows do not lie together
            yield from _InMemory(self.whole()).blocks(rows)
            return
        row = math.prod(self.shape[1:])
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            stream.read(self.header)
            for first in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - first)
                data = stream.read(count * row * self.itemsize)
                if len(data) < count * row * self.itemsize:
                    raise EOFError(f"{shown(self.member)} is cut off")
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


def _header(stream: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Shape, dtype, whether it is in Fortran order, and the header's length, as the .npy format states them.

    Raises ValueError where the array cannot lie in the ``size`` bytes that the file or member has from its start on.
    """
    start = stream.tell()
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    length = stream.tell() - start
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are not loaded; save arrays of numbers")
    if any(isinstance(dim, bool) or not 0 <= dim < _MOST for dim in shape):
        raise ValueError(f"its header states the shape {_sizes(shape)}, which no array has")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > size - length:
        raise ValueError(f"its header states {wanted:,} bytes for shape {_sizes(shape)}, it has {size - length:,}")
    return shape, dtype, fortran, length


_MOST = 1 << 62
"""More than any axis is long."""


def _sizes(shape: Sequence[int]) -> str:
    return shown(list(shape))


def read_npy(path: Path, *, mapped: bool = True) -> Array:
    """The array of a .npy file, memory-mapped or read. Raises what `naming` turns into one line."""
    size = require_file(path, "a .npy file")
    with path.open("rb") as file:
        shape, dtype, _, _ = _header(file, size)
    if not mapped:
        require_room(math.prod(shape) * dtype.itemsize, f"{named(path)} of shape {_sizes(shape)}")
    mapped = mapped and bool(math.prod(shape)) and dtype.itemsize > 0
    array: Array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    return array


def npz_columns(path: Path) -> dict[str, _Column]:
    """The arrays of a .npz by name; only their headers are read now. Raises what `naming` turns into one line."""
    require_file(path, "a .npz file")
    columns: dict[str, _Column] = {}
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if len(members) > _MEMBERS:
            raise ValueError(f"it has {len(members):,} arrays; one for each input is expected")
        for info in members:
            name = info.filename.removesuffix(".npy")
            if name in columns:
                raise ValueError(f"it holds {shown(info.filename)} twice")
            if info.file_size > max(_BOMB_BYTES, _BOMB_RATIO * info.compress_size):
                raise ValueError(
                    f"{shown(info.filename)} has {info.compress_size:,} bytes that unpack to {info.file_size:,}; "
                    "if that is data, save it with np.savez, which does not compress"
                )
            with archive.open(info) as stream:
                found = _Zipped(path, info.filename, *_header(stream, info.file_size))
            mapped = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & _ENCRYPTED
            columns[name] = _mapped(found, info) if mapped else found
    return columns


def _mapped(column: _Zipped, info: zipfile.ZipInfo) -> _InMemory:
    """An uncompressed member, mapped from where it lies in the archive; its checksum is compared now."""
    with column.path.open("rb") as file:
        file.seek(info.header_offset)
        local = struct.unpack(_LOCAL_HEADER, file.read(struct.calcsize(_LOCAL_HEADER)))
        file.seek(sum(local[-2:]), 1)  # the member's name, and what else the archive notes about it
        first, crc, left = file.tell(), 0, info.file_size
        while left and (block := file.read(min(left, _BLOCK_BYTES))):
            crc, left = zlib.crc32(block, crc), left - len(block)
        if crc != info.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {column.member!r}")
        file.seek(first)
        _header(file, info.file_size)
        order: Literal["F", "C"] = "F" if column.fortran else "C"
        if not math.prod(column.shape):  # nothing to map
            return _InMemory(np.zeros(column.shape, column.dtype))
        return _InMemory(np.memmap(file, column.dtype, "r", file.tell(), column.shape, order))


@contextmanager
def naming(path: Path, what: str | None = None) -> Iterator[None]:
    """Turn whatever NumPy and zipfile raise on a bad file into one line with its name."""
    try:
        yield
    except OnnxmergeError:
        raise
    except Exception as error:  # a damaged archive or header makes them raise almost anything
        told = what or f"a NumPy {path.suffix[1:].lower()} file"
        raise InputError(f"{named(path)}: cannot be read as {told}: {reason(error)}") from error


def _file_columns(path: Path, specs: Sequence[InputSpec], notes: dict[str, None]) -> dict[str, _Column]:
    """The arrays of one file by input name."""
    with naming(path):
        columns = npz_columns(path) if path.suffix.lower() == ".npz" else {path.stem: _InMemory(read_npy(path))}
        chosen = select(tuple(columns), specs, named(path))
        only = chosen[specs[0].name]
        if path.suffix.lower() == ".npz" and only != specs[0].name:
            notes[f"{named(path)}: its only array, {shown(only)}, was taken for input {specs[0].name!r}"] = None
        return {name: columns[key] for name, key in chosen.items()}


def array_chunks(arrays: Mapping[str, Array], specs: Sequence[InputSpec], origin: str, *, batched: bool) -> Chunks:
    """Arrays in memory, one per input."""
    named = {str(name): np.asarray(array) for name, array in arrays.items()}
    chosen = select(tuple(named), specs, origin)
    columns: dict[str, _Column] = {name: _InMemory(named[key]) for name, key in chosen.items()}
    count = _check_columns(columns, specs, origin, batched=batched)
    between = _between(columns, specs, origin) if batched else None
    return Chunks(origin, lambda: _read(columns, specs, origin, batched=batched), count, between)


def file_chunks(path: Path, specs: Sequence[InputSpec], *, batched: bool) -> Chunks:
    """A .npy or .npz file.

    Raises:
        InputError: it cannot be read, or does not hold what the model takes.

    """
    notes: dict[str, None] = {}
    columns = _file_columns(path, specs, notes)
    count = _check_columns(columns, specs, named(path), batched=batched)

    def start() -> Iterator[Feed]:
        with naming(path):
            yield from _read(columns, specs, named(path), batched=batched)

    return Chunks(named(path), start, count, _between(columns, specs, named(path)) if batched else None, notes=notes)


def folder_chunks(folder: Path, files: Sequence[Path], specs: Sequence[InputSpec], *, batched: bool) -> Chunks:
    """The .npy and .npz files of a folder, one after another."""
    notes: dict[str, None] = {}

    def start() -> Iterator[Feed]:
        for path in files:
            chunks = file_chunks(path, specs, batched=batched)
            if not notes:  # the first says it for all
                notes.update(chunks.notes)
            yield from chunks.start()

    return Chunks(named(folder), start, notes=notes)


def _lacks_batch(column: _Column, spec: InputSpec) -> bool:
    """Whether this is one sample, without its batch axis."""
    return spec.shape is not None and len(column.shape) == len(spec.shape) - 1


def _check_columns(
    columns: Mapping[str, _Column], specs: Sequence[InputSpec], origin: str, *, batched: bool
) -> int | None:
    """Check shapes before anything is read; the number of rows, or None where data is not cut along axis 0."""
    rows: dict[str, int] = {}
    for spec in specs:
        column = columns[spec.name]
        shape = (1, *column.shape) if batched and _lacks_batch(column, spec) else column.shape
        check_shape(shape, spec, origin, batched=batched)
        if shape and shape[0] and not math.prod(shape):
            raise InputError(f"{origin}: input {spec} expected, found shape {_sizes(shape)}, which holds nothing")
        rows[spec.name] = shape[0] if shape else 1
    if not batched:
        return None
    check_rows(rows, origin)
    return next(iter(rows.values()))


def _between(
    columns: Mapping[str, _Column], specs: Sequence[InputSpec], origin: str
) -> Callable[[int, int], Feed] | None:
    """Samples by their places, where no array must be unpacked from its start."""
    arrays = {name: column.array for name, column in columns.items() if isinstance(column, _InMemory)}
    if len(arrays) < len(columns) or any(_lacks_batch(columns[spec.name], spec) for spec in specs):
        return None

    def between(first: int, last: int) -> Feed:
        part = {name: array[first:last] for name, array in arrays.items()}
        return conform_all(part, specs, origin, batched=True, first=first)

    return between


def _read(columns: Mapping[str, _Column], specs: Sequence[InputSpec], origin: str, *, batched: bool) -> Iterator[Feed]:
    if not batched or any(_lacks_batch(columns[spec.name], spec) for spec in specs):
        whole = {name: column.whole() for name, column in columns.items()}
        yield conform_all(whole, specs, origin, batched=batched)
        return
    row_bytes = max(math.prod(column.shape[1:]) * column.itemsize for column in columns.values())
    rows = max(1, _BLOCK_BYTES // max(1, row_bytes))
    first = 0
    for blocks in zip(*(column.blocks(rows) for column in columns.values()), strict=True):
        yield conform_all(dict(zip(columns, blocks, strict=True)), specs, origin, batched=True, first=first)
        first += rows
