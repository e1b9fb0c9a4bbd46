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

from onnxmerge.calibration.specs import Array, InputSpec, check_rows, check_shape, conform_all, select
from onnxmerge.errors import InputError

Feed = dict[str, Array]

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})

_BLOCK_BYTES = 1 << 24

_ENCRYPTED = 1
"""The bit of a member's flags that says so (PKWARE APPNOTE, 4.4.4)."""

_LOCAL_HEADER = "<4s5H3L2H"
"""What precedes a member: its last two numbers are the lengths of a name and of extra notes (APPNOTE, 4.3.7)."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """Feeds that can be produced again and again, checked and in the inputs' dtypes.

    ``rows`` is the number of samples in all, where it is known beforehand. ``origin`` names the data in messages.
    ``endless`` says that a program gives the data, which may never stop. ``notes`` are what the user should know,
    added (as keys) as data is read.
    """

    origin: str
    start: Callable[[], Iterator[Feed]]
    rows: int | None = None
    endless: bool = False
    notes: dict[str, None] = field(default_factory=dict)


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

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    def whole(self) -> Array:
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    def blocks(self, rows: int) -> Iterator[Array]:
        if self.fortran:  # rows do not lie together
            yield from _InMemory(self.whole()).blocks(rows)
            return
        row = math.prod(self.shape[1:])
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            _header(stream)
            for first in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - first)
                data = stream.read(count * row * self.itemsize)
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, dtype, and whether it is in Fortran order, as the .npy format states them."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are not loaded")
    return shape, dtype, fortran


def npz_columns(path: Path) -> dict[str, _Column]:
    """The arrays of a .npz by name; only their headers are read now."""
    columns: dict[str, _Column] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as stream:
                    found = _Zipped(path, member, *_header(stream))
                info = archive.getinfo(member)
                mapped = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & _ENCRYPTED
                columns[member.removesuffix(".npy")] = _mapped(found, info) if mapped else found
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
        _header(file)
        order: Literal["F", "C"] = "F" if column.fortran else "C"
        if not math.prod(column.shape):  # nothing to map
            return _InMemory(np.zeros(column.shape, column.dtype))
        return _InMemory(np.memmap(file, column.dtype, "r", file.tell(), column.shape, order))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what NumPy and zipfile raise on a bad file into one line with its name."""
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read as a NumPy {path.suffix[1:]} file: {reason}") from error


def _file_columns(path: Path, specs: Sequence[InputSpec]) -> dict[str, _Column]:
    """The arrays of one file by input name."""
    with _naming(path):
        if path.suffix.lower() == ".npz":
            columns = npz_columns(path)
        else:
            columns = {path.stem: _InMemory(np.load(path, mmap_mode="r", allow_pickle=False))}
    chosen = select(tuple(columns), specs, str(path))
    return {name: columns[key] for name, key in chosen.items()}


def array_chunks(arrays: Mapping[str, Array], specs: Sequence[InputSpec], origin: str, *, batched: bool) -> Chunks:
    """Arrays in memory, one per input."""
    named = {str(name): np.asarray(array) for name, array in arrays.items()}
    chosen = select(tuple(named), specs, origin)
    columns: dict[str, _Column] = {name: _InMemory(named[key]) for name, key in chosen.items()}
    rows = _check_columns(columns, specs, origin, batched=batched)
    return Chunks(origin, lambda: _read(columns, specs, origin, batched=batched), rows)


def file_chunks(path: Path, specs: Sequence[InputSpec], *, batched: bool) -> Chunks:
    """A .npy or .npz file.

    Raises:
        InputError: it cannot be read, or does not hold what the model takes.

    """
    columns = _file_columns(path, specs)
    rows = _check_columns(columns, specs, str(path), batched=batched)

    def start() -> Iterator[Feed]:
        with _naming(path):
            yield from _read(columns, specs, str(path), batched=batched)

    return Chunks(str(path), start, rows)


def folder_chunks(folder: Path, files: Sequence[Path], specs: Sequence[InputSpec], *, batched: bool) -> Chunks:
    """The .npy and .npz files of a folder, one after another."""

    def start() -> Iterator[Feed]:
        for path in files:
            yield from file_chunks(path, specs, batched=batched).start()

    return Chunks(str(folder), start)


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
        rows[spec.name] = shape[0] if shape else 1
    if not batched:
        return None
    check_rows(rows, origin)
    return next(iter(rows.values()))


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
