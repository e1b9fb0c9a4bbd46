"""Readers and iterables of feeds that a user's program provides, and scripts that define them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from onnxmerge.calibration.chunks import Chunks, Feed
from onnxmerge.calibration.foreign import Foreign
from onnxmerge.calibration.specs import InputSpec, conform_all
from onnxmerge.errors import InputError
from onnxmerge.files import require_file
from onnxmerge.types import Array


@runtime_checkable
class Reader(Protocol):
    """The convention of ONNX Runtime's CalibrationDataReader. A ``rewind()`` method makes it readable again."""

    def get_next(self) -> Mapping[str, Any] | None: ...


def reader_chunks(provided: Any, specs: Sequence[InputSpec], program: Foreign, *, batched: bool) -> Chunks:
    """Feeds of a reader, of an iterable of feeds, or of a function without arguments that returns either.

    A feed is {input: array}, or for a one-input model an array. It is copied, for a reader may fill one buffer again
    and again. A function is called anew for every pass; a reader is rewound if it can be; an iterable is iterated
    again. A generator or a reader without ``rewind`` serves for one pass only, and a second raises InputError.
    """
    source = _Provided(provided, program)

    def start() -> Iterator[Feed]:
        for arrays in source.feeds(specs[0].name):
            yield conform_all(arrays, specs, program.origin, batched=batched)

    return Chunks(program.origin, start, endless=True)


@dataclass(slots=True, eq=False)
class _Provided:
    """What a program gives, pass after pass.

    A reader has one position, which passes that overlap move in turn. One that goes on after another rewinds the
    reader and skips what it has given already. ``last`` is what was read last, in the pass of number ``turn``.
    """

    given: Any
    program: Foreign
    last: object = None
    turn: int = 0
    passes: int = 0

    def feeds(self, only: str) -> Iterator[dict[str, Array]]:
        """Feeds from the first on; an array without a name is that of input ``only``."""
        self.passes += 1
        with self.program.running():
            given = self.given() if _is_function(self.given) else self.given
            if not _is_reader(given):
                given = self._iterator(given)
        following = self._read(given, self.passes) if _is_reader(given) else given
        while True:
            with self.program.running():
                feed = next(following, None)
                if feed is None:
                    return
                named = feed if isinstance(feed, Mapping) else {only: feed}
                arrays = {str(name): np.array(value, order="C") for name, value in named.items()}
            yield arrays

    def _iterator(self, given: Any) -> Iterator[Any]:
        if not isinstance(given, Iterable):
            raise InputError(
                f"{self.program.origin}: a reader or an iterable of {{input: array}} is expected, "
                f"found {type(given).__name__}"
            )
        found = iter(given)
        if found is self.last:
            raise InputError(
                f"{self.program.origin}: it is read several times; pass a function that makes it, not the generator"
            )
        self.last = found
        return found

    def _read(self, reader: Reader, turn: int) -> Iterator[Any]:
        seen = 0
        while True:
            if reader is self.last and turn != self.turn:
                self._rewind(reader, seen)
            self.last, self.turn = reader, turn
            feed = reader.get_next()
            if feed is None:
                return
            seen += 1
            yield feed

    def _rewind(self, reader: Reader, seen: int) -> None:
        rewind = getattr(reader, "rewind", None)
        if rewind is None:
            raise InputError(
                f"{self.program.origin}: it is read several times; give the reader a rewind() method, or pass a "
                "function"
            )
        rewind()
        for _ in range(seen):
            reader.get_next()


def _is_reader(given: Any) -> bool:
    return isinstance(given, Reader) and not isinstance(given, type)


def _is_function(given: Any) -> bool:
    return callable(given) and not _is_reader(given) and not isinstance(given, Iterable)


def is_script(spec: str) -> bool:
    """Whether this reads `script.py:function`."""
    path, colon, function = spec.rpartition(":")
    return bool(colon) and path.lower().endswith(".py") and function.isidentifier()


class _Loader(SourceFileLoader):
    """Runs a script without leaving its bytecode beside it."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write nothing."""


def script_chunks(spec: str, specs: Sequence[InputSpec], *, batched: bool) -> Chunks:
    """The feeds of `script.py:function`. The script runs now, the function at every pass.

    Raises:
        InputError: there is no such script or function, or the script fails.

    """
    name, _, function = spec.rpartition(":")
    path = Path(name).absolute()
    require_file(path, "a script")
    name = f"onnxmerge_calibration_{path.stem}"
    found = spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    if found is None or found.loader is None:
        raise InputError(f"{path}: cannot be loaded as a Python script")
    module = module_from_spec(found)
    program = Foreign(str(path))
    with program.running():
        sys.modules[name] = module  # dataclasses and pickle look a module up by its name
        found.loader.exec_module(module)
    provider = getattr(module, function, None)
    if not callable(provider):
        raise InputError(f"{path}: defines no function {function!r}")
    return reader_chunks(provider, specs, Foreign(f"{path}:{function}", program.folder), batched=batched)
