"""Readers and iterables of feeds that a user's program provides, and scripts that define them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from onnxmerge.calibration.chunks import Chunks, Feed
from onnxmerge.calibration.specs import InputSpec, conform_all
from onnxmerge.errors import InputError, OnnxmergeError


@runtime_checkable
class Reader(Protocol):
    """The convention of ONNX Runtime's CalibrationDataReader. A ``rewind()`` method makes it readable again."""

    def get_next(self) -> Mapping[str, Any] | None: ...


def reader_chunks(provided: Any, specs: Sequence[InputSpec], origin: str, *, batched: bool) -> Chunks:
    """Feeds of a reader, of an iterable of feeds, or of a function without arguments that returns either.

    A feed is {input: array}, or for a one-input model an array. A function is called anew for every pass; a reader
    is rewound if it can be; an iterable is iterated again. A generator or a reader without ``rewind`` serves for one
    pass only, and a second raises InputError.
    """
    passes = 0

    def start() -> Iterator[Feed]:
        nonlocal passes
        passes += 1
        with _Blaming(origin):
            feeds = iter(_feeds(provided, origin, again=passes > 1))
        while True:
            with _Blaming(origin):
                feed = next(feeds, None)
            if feed is None:
                return
            arrays = feed if isinstance(feed, Mapping) else {specs[0].name: feed}
            yield conform_all(arrays, specs, origin, batched=batched)

    return Chunks(origin, start)


def _feeds(provided: Any, origin: str, *, again: bool) -> Iterable[Any]:
    """Feeds from the first on."""
    if isinstance(provided, Reader) and not isinstance(provided, type):
        rewind: Callable[[], object] | None = getattr(provided, "rewind", None)
        if again and rewind is None:
            raise InputError(
                f"{origin}: it is read several times; give the reader a rewind() method, or pass a function"
            )
        if again and rewind is not None:
            rewind()
        return iter(provided.get_next, None)
    if isinstance(provided, Iterable):
        feeds = iter(provided)
        if again and feeds is provided:
            raise InputError(f"{origin}: it is read several times; pass a function that makes it, not the generator")
        return feeds
    if callable(provided):
        return _feeds(provided(), origin, again=False)
    raise InputError(
        f"{origin}: a reader or an iterable of {{input: array}} is expected, found {type(provided).__name__}"
    )


class _Blaming:
    """Turn any exception out of the user's code into one line that names where it came from."""

    __slots__ = ("origin",)

    def __init__(self, origin: str) -> None:
        self.origin = origin

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, OnnxmergeError):
            raise InputError(f"{self.origin} raised {type(error).__name__}: {error}") from error


def is_script(spec: str) -> bool:
    """Whether this reads `script.py:function`."""
    path, colon, function = spec.rpartition(":")
    return bool(colon) and path.lower().endswith(".py") and function.isidentifier()


def script_chunks(spec: str, specs: Sequence[InputSpec], *, batched: bool) -> Chunks:
    """The feeds of `script.py:function`. The script runs now, the function at every pass.

    Raises:
        InputError: there is no such script or function, or the script fails.

    """
    name, _, function = spec.rpartition(":")
    path = Path(name).resolve()
    if not path.is_file():
        raise InputError(f"{path}: no such script")
    found = importlib.util.spec_from_file_location(f"onnxmerge_calibration_{path.stem}", path)
    if found is None or found.loader is None:
        raise InputError(f"{path}: cannot be loaded as a Python script")
    module = importlib.util.module_from_spec(found)
    with _Blaming(str(path)):
        found.loader.exec_module(module)
    provider = getattr(module, function, None)
    if not callable(provider):
        raise InputError(f"{path}: defines no function {function!r}")
    return reader_chunks(provider, specs, f"{path}:{function}", batched=batched)
