"""Large models without copies of their weights: tensors are found in a file, and written to one, where they lie.

A protobuf message in memory holds all its bytes once more. So of a large file only what is not data is parsed; each
large tensor of the main graph becomes one that is kept outside, in the model's own file at the place where it is. And a
large file is put together of what is in front of each tensor's data, the data, and what is behind.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

_PLAIN = re.compile(r"[\w.()+=@ -]+", re.ASCII)
"""Names of files that are names of data files as well, whatever the system."""
LEAST = 1 << 16
"""Bytes of data from which on a tensor stays in the file."""

_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW = 7, 5, 9
"""Numbers of fields in onnx.proto."""
_DELIMITED = 2


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message: its number, where it begins, and where its content lies (of a delimited one)."""

    number: int
    delimited: bool
    begin: int
    start: int
    end: int


def skeleton(data: memoryview, name: str) -> bytes | None:
    """A serialised model whose large tensors are kept in the file ``name`` of which ``data`` is the content.

    None where that cannot be, and where the file is not as it should be: whoever parses all of it will say what is
    wrong. Tensors of which anything is odd stay in the message.
    """
    if not _PLAIN.fullmatch(name):
        return None
    try:
        graphs = [each for each in _fields(data, 0, len(data)) if each.number == _MODEL_GRAPH]
        if len(graphs) != 1 or not graphs[0].delimited:
            return None
        graph, parts = graphs[0], list[bytes | memoryview]()
        copied = graph.start
        for each in _fields(data, graph.start, graph.end):
            if each.number == _GRAPH_INITIALIZER and each.delimited and each.end - each.start >= LEAST:
                outside = _outside(data, each, name)
                if outside is not None:
                    parts += [data[copied : each.begin], _delimited(_GRAPH_INITIALIZER, len(outside)), outside]
                    copied = each.end
        parts.append(data[copied : graph.end])
        inside = b"".join(parts)
        whole = (data[: graph.begin], _delimited(_MODEL_GRAPH, len(inside)), inside, data[graph.end :])
        return b"".join(whole)
    except (ValueError, IndexError, DecodeError):
        return None


def _outside(data: memoryview, field: _Field, name: str) -> bytes | None:
    """A tensor that names the place of its data in place of it; None where it does not hold as much as it must."""
    raw = [each for each in _fields(data, field.start, field.end) if each.number == _TENSOR_RAW]
    if len(raw) != 1 or not raw[0].delimited:
        return None
    place = raw[0]
    tensor = onnx.TensorProto.FromString(b"".join((data[field.start : place.begin], data[place.end : field.end])))
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (ValueError, TypeError):  # no type, or one of text
        return None
    size = place.end - place.start
    elements = 1
    for dim in tensor.dims:
        elements *= dim
    odd = tensor.external_data or tensor.HasField("data_location") or tensor.HasField("segment")
    if odd or min(tensor.dims, default=0) < 0 or -(-elements * bits // 8) != size:
        return None
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", place.start), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
    return bytes(tensor.SerializeToString())


def _fields(data: memoryview, start: int, end: int) -> Iterator[_Field]:
    """The fields of a message. Raises ValueError or IndexError where it is none."""
    place = start
    while place < end:
        begin = place
        tag, place = _number(data, place)
        kind = tag & 7
        if kind == _DELIMITED:
            size, place = _number(data, place)
            inside, place = place, place + size
        elif kind == 0:
            inside = place
            _, place = _number(data, place)
        elif kind in {1, 5}:
            inside, place = place, place + (8 if kind == 1 else 4)
        else:
            raise ValueError(kind)
        if place > end:
            raise ValueError(place)
        yield _Field(tag >> 3, kind == _DELIMITED, begin, inside, place)


def _number(data: memoryview, place: int) -> tuple[int, int]:
    """A number in protobuf's notation, and where it ends."""
    found = shift = 0
    while True:
        byte = data[place]
        place += 1
        found |= (byte & 127) << shift
        if byte < 128:
            return found, place
        shift += 7
        if shift > 63:
            raise ValueError(shift)


def _delimited(number: int, size: int) -> bytes:
    """What stands in front of a delimited field."""
    found = bytearray()
    for each in (number << 3 | _DELIMITED, size):
        left = each
        while left > 127:
            found.append(left & 127 | 128)
            left >>= 7
        found.append(left)
    return bytes(found)


def write_model(
    stream: IO[bytes], model: onnx.ModelProto, sizes: Sequence[int | None], fill: Callable[[list[int]], None]
) -> None:
    """Write a model as it would be serialised if the tensors of its main graph held their data.

    Args:
        stream: A new file that is open for writing.
        model: The model. Those of its tensors that are to have data hold none themselves.
        sizes: How many bytes of data each initializer of the main graph is to have; None: it is in the message.
        fill: Called with the places of these data when all that is around them is written: it puts them there, and may
            change what stands behind the graph (metadata).

    """
    front, behind = _parted(model.graph, _GRAPH_INITIALIZER)
    parts: list[tuple[bytes, bytes, int]] = []
    for tensor, data in zip(model.graph.initializer, sizes, strict=True):
        before, after = (
            (tensor.SerializeToString(deterministic=True), b"") if data is None else _parted(tensor, _TENSOR_RAW)
        )
        held = b"" if data is None else _delimited(_TENSOR_RAW, data)
        whole = len(before) + len(held) + len(after) + (data or 0)
        parts.append((_delimited(_GRAPH_INITIALIZER, whole) + before + held, after, data or 0))
    size = len(front) + len(behind) + sum(len(head) + data + len(after) for head, after, data in parts)
    stream.write(_parted(model, _MODEL_GRAPH)[0] + _delimited(_MODEL_GRAPH, size) + front)
    places: list[int] = []
    for (head, after, data), known in zip(parts, sizes, strict=True):
        stream.write(head)
        if known is not None:
            places.append(stream.tell())
            stream.seek(data, os.SEEK_CUR)
        stream.write(after)
    stream.write(behind)
    end = stream.tell()
    fill(places)
    stream.seek(end)
    stream.write(_parted(model, _MODEL_GRAPH)[1])


def _parted(message: Message, number: int) -> tuple[bytes, bytes]:
    """What a message holds in front of a field, and behind it, serialised."""
    front, behind = type(message)(), type(message)()
    for field, value in message.ListFields():
        part = front if field.number < number else behind
        if field.number == number:
            continue
        if hasattr(value, "extend"):
            getattr(part, field.name).extend(value)
        elif isinstance(value, Message):
            getattr(part, field.name).CopyFrom(value)
        else:
            setattr(part, field.name, value)
    return front.SerializeToString(deterministic=True), behind.SerializeToString(deterministic=True)
