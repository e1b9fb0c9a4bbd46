"""What a whole pass over data finds out: its digest, how much there is, and whether it says anything."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Seen:
    """SHA-256 of the rows of one input and of their type and shape, however they were cut into batches.

    Where axis 0 does not count samples, each array is one, and its whole shape counts.
    """

    __slots__ = ("constant", "first", "sha", "shape", "shapes", "zero")

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self.shape: tuple[int, ...] | None = None
        self.shapes: set[tuple[int, ...]] = set()
        self.first: NDArray[Any] | None = None
        self.constant = self.zero = True

    def update(self, array: NDArray[Any], *, rows: bool) -> None:
        """Add a batch; ``rows`` says that axis 0 counts samples, else the array is one."""
        shape = array.shape[1:] if rows else array.shape
        if not rows or shape != self.shape:
            self.shape = shape
            self.shapes.add(shape)
            self.sha.update(f"{array.dtype} {self.shape}".encode())
        self.sha.update(array.tobytes())
        if self.first is None:
            self.first = np.array(array[0] if rows and len(array) else array)
        self.zero = self.zero and not array.any()
        if self.constant:
            self.constant = shape == self.first.shape and bool((array == self.first).all())


@dataclass(frozen=True, slots=True)
class Findings:
    """Of a pass: the samples in each feed, its ``checksums``, and whether it was ``stopped`` before the data's end.

    ``constant``: every sample is equal to the first; ``zero``: all values are zero; of all inputs together.
    """

    sizes: tuple[int, ...]
    checksums: tuple[int, ...]
    stopped: bool
    seen: Mapping[str, Seen]

    @property
    def rows(self) -> int:
        """The samples of all feeds."""
        return sum(self.sizes)

    @property
    def shapes(self) -> frozenset[tuple[str, tuple[int, ...]]]:
        """The shapes of samples that were seen, with the input that has them."""
        return frozenset((name, shape) for name, own in self.seen.items() for shape in own.shapes)

    @property
    def constant(self) -> bool:
        return all(own.constant for own in self.seen.values())

    @property
    def zero(self) -> bool:
        return all(own.zero for own in self.seen.values())

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all inputs."""
        parts = "\n".join(f"{name!r} {own.sha.hexdigest()}" for name, own in sorted(self.seen.items()))
        return hashlib.sha256(parts.encode()).hexdigest()


def checksum(feed: Mapping[str, NDArray[Any]]) -> int:
    """By which a feed is known again when it is read again."""
    found = 0
    for name in sorted(feed):
        found = zlib.crc32(feed[name].tobytes(), found)
    return found
