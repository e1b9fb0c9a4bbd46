"""Lazy weights that are computed once: what takes long to compute lies in a temporary file, mapped when it is read."""

from __future__ import annotations

import math
import mmap
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.memory import lies_in_memory, room_for
from onnxmerge.threads import Piece, at_once

FREE = 3
"""So many times what is to be kept must be free on the disk: others write there too."""

PART = 8
"""The part of the memory that may be taken for what is kept, where there is no disk to keep it on."""

ALIGNED = 64
"""Arrays begin at multiples of so many bytes."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an array lies in the file."""

    start: int
    end: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class KeptWeights(Mapping[str, NDArray[Any]]):
    """Arrays by name, each computed on the first access; read-only. Several threads may read.

    They come to ``nbytes``. The file has no name and is gone with this. Without room for it some are kept in memory,
    and the others are computed on every access. What is read-only already, as it is stored somewhere, is not kept.
    """

    def __init__(self, weights: Mapping[str, NDArray[Any]], nbytes: int) -> None:
        self._weights, self._nbytes = weights, nbytes
        self._places: dict[str, _Place] = {}
        self._held: dict[str, NDArray[Any]] = {}
        self._lock, self._end = threading.Lock(), 0
        self._file = _file(FREE * nbytes)
        self._map: mmap.mmap | None = None
        if self._file is not None:
            weakref.finalize(self, self._file.close)
        self._room = 0 if self._file is not None else room_for(nbytes, PART)

    def __reduce__(self) -> tuple[type[KeptWeights], tuple[Mapping[str, NDArray[Any]], int]]:
        """What another process gets of it: nothing that is kept."""
        return KeptWeights, (self._weights, self._nbytes)

    def compute(self, sizes: Mapping[str, int], *, most: int) -> None:
        """Compute all on the processor's cores: ``sizes`` is the memory that each takes meanwhile, ``most`` of all."""
        at_once(self._computed, [Piece(name, sizes[name]) for name in self], most=most)

    def __getitem__(self, name: str) -> NDArray[Any]:
        place = self._places.get(name)
        if place is None or self._file is None:
            return self._held[name] if name in self._held else self._new(name)
        with self._lock:
            if self._map is None or len(self._map) < place.end:  # what was read before keeps its own
                self._map = mmap.mmap(self._file.fileno(), self._end, access=mmap.ACCESS_READ)
            mapped = self._map
        return np.frombuffer(mapped, place.dtype, math.prod(place.shape), place.start).reshape(place.shape)

    def _computed(self, name: str) -> None:
        self[name]

    def _new(self, name: str) -> NDArray[Any]:
        found = self._weights[name]
        if found.flags.writeable and found.nbytes and not found.dtype.hasobject:
            self._keep(name, np.ascontiguousarray(found).reshape(found.shape))
        return found

    def _keep(self, name: str, array: NDArray[Any]) -> None:
        with self._lock:
            if self._file is None:
                if array.nbytes <= self._room:
                    self._room -= array.nbytes
                    self._held[name] = array
                return
            start, end = self._end, self._end + array.nbytes
            with suppress(OSError):  # the disk is full
                self._file.truncate(-(-end // ALIGNED) * ALIGNED)
                self._file.seek(start)
                rest = array.reshape(-1).view(np.uint8).data
                while rest:
                    rest = rest[self._file.write(rest) :]
                self._places[name] = _Place(start, end, array.dtype, array.shape)
                self._end = -(-end // ALIGNED) * ALIGNED

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _file(size: int) -> IO[bytes] | None:
    """A temporary file on a disk that has so much room; None where there is none. Nothing waits to be written to it."""
    folder = tempfile.gettempdir()
    with suppress(OSError):
        if not lies_in_memory(folder) and shutil.disk_usage(folder).free >= size:
            return tempfile.TemporaryFile(prefix="onnxmerge-", buffering=0)
    return None
