"""One result in one file: numbers, texts, arrays and dataclasses of these, which come back bit for bit or not at all.

The bytes of the arrays, one after the other, then JSON that says what they are part of, its length, and the SHA-256 of
all that. Nothing in a file can run anything: only the classes in ``CLASSES`` are made, from plain values. Arrays come
back in the order of axes that they had in memory, since that decides how their sums are rounded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.activations.moments import Moments
from onnxmerge.activations.statistics import FeedMoments, Gram, Statistics
from onnxmerge.matching.method import MatchResult, Search
from onnxmerge.units.zips import Zipped

CLASSES = {each.__name__: each for each in (FeedMoments, Gram, Moments, Statistics, MatchResult, Search, Zipped)}
"""The dataclasses that a result may hold."""

_PLAIN = (type(None), bool, int, float, str)
_LENGTH, _DIGEST = 8, 32
_PIECE = 1 << 20


def size_of(value: Any) -> int:
    """The bytes of all arrays in a result."""
    sizes: list[int] = []
    _described(value, lambda data: sizes.append(data.nbytes))
    return sum(sizes)


def write_result(value: Any, stream: IO[bytes]) -> None:
    """Write a result, one array at a time. Raises TypeError for a value of a class that is not known."""
    sha256 = hashlib.sha256()

    def put(data: bytes | memoryview) -> None:
        sha256.update(data)
        stream.write(data)

    described = json.dumps(_described(value, lambda data: put(data.data))).encode()
    put(described)
    put(len(described).to_bytes(_LENGTH, "big"))
    stream.write(sha256.digest())


def read_result(path: Path) -> Any:
    """The result in a file. Raises OSError where there is none, ValueError where it is not whole."""
    with path.open("rb") as stream:
        size = _whole(stream)
        stream.seek(size - _LENGTH)
        length = int.from_bytes(stream.read(_LENGTH), "big")
        stream.seek(size - _LENGTH - length)
        described = json.loads(stream.read(length))
        stream.seek(0)
        return _made(described, stream)


def _whole(stream: IO[bytes]) -> int:
    """The bytes before the digest, which must be theirs."""
    size, sha256 = stream.seek(0, 2) - _DIGEST, hashlib.sha256()
    stream.seek(0)
    left = size
    while left > 0 and (piece := stream.read(min(left, _PIECE))):
        sha256.update(piece)
        left -= len(piece)
    if size < _LENGTH or stream.read() != sha256.digest():
        raise ValueError("is not whole")
    return size


def _described(value: Any, put: Callable[[NDArray[np.uint8]], object]) -> Any:
    """What JSON says of a value: {kind: content} if it is not plain. The bytes of its arrays are ``put`` away."""
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise TypeError("an array of objects cannot be kept")
        data, order = _dense(array)
        put(data)
        return {"array" if isinstance(value, np.ndarray) else "scalar": [_name(array.dtype), array.shape, order]}
    if type(value) in _PLAIN:
        return value
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_described(each, put) for each in value]}
    if isinstance(value, Mapping):
        return {"mapping": [[_described(key, put), _described(each, put)] for key, each in value.items()]}
    if CLASSES.get(type(value).__name__) is type(value) and is_dataclass(value):
        return {type(value).__name__: {each.name: _described(getattr(value, each.name), put) for each in fields(value)}}
    raise TypeError(f"a {type(value).__name__} cannot be kept")


def _made(described: Any, stream: IO[bytes]) -> Any:
    if not isinstance(described, dict):
        return described
    ((kind, content),) = described.items()
    if kind in ("array", "scalar"):
        name, shape, order = content
        dense = np.empty([shape[axis] for axis in order], np.dtype(name))
        stream.readinto(dense.reshape(-1).view(np.uint8))  # type: ignore[attr-defined]  # a file opened for bytes has it
        found = dense.transpose(np.argsort(order))
        return found if kind == "array" else found[()]
    if kind in ("tuple", "list"):
        return (tuple if kind == "tuple" else list)(_made(each, stream) for each in content)
    if kind == "mapping":
        return {_made(key, stream): _made(each, stream) for key, each in content}
    return CLASSES[kind](**{name: _made(each, stream) for name, each in content.items()})


def _dense(array: NDArray[Any]) -> tuple[NDArray[np.uint8], list[int]]:
    """The bytes of an array, and its axes in the order in which they lie in memory, the slowest first."""
    order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    return np.ascontiguousarray(array.transpose(order)).reshape(-1).view(np.uint8), order


def _name(dtype: np.dtype[Any]) -> str:
    """What ``np.dtype`` knows a type by; those of ml_dtypes go by their names."""
    return dtype.name if dtype.kind == "V" or np.dtype(dtype.str) != dtype else dtype.str
