"""Every message in a protobuf, found by its descriptors: what a later version of onnx adds is not forgotten."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A message, the part that it stands in, and the name of the field in which it stands there."""

    message: Message
    field: str = ""
    around: Part | None = None

    def describe(self) -> str:
        """What a user calls it: "initializer 'w'", "attribute 'value' of node 'n' (Constant)"."""
        message, around = self.message, self.around
        if isinstance(message, onnx.NodeProto):
            return node_name(message)
        if isinstance(message, onnx.FunctionProto):
            return f"function {short(message.name)}"
        if isinstance(message, onnx.AttributeProto):
            what = "attribute" if around is None or around.field == "node" else "default of attribute"
            return f"{what} {short(message.name)}{self._owner()}"
        if isinstance(message, onnx.TensorProto) and self.field == "initializer":
            return f"initializer {short(message.name)}"
        if around is not None and isinstance(around.message, onnx.AttributeProto):
            return around.describe()
        name = getattr(message, "name", "")
        return f"{self.field or 'model'}{f' {short(name)}' if name else ''}{self._owner()}"

    def inside(self, kind: type[Message]) -> bool:
        """Whether it stands in a message of this kind, at any depth."""
        around = self.around
        while around is not None and not isinstance(around.message, kind):
            around = around.around
        return around is not None

    def _owner(self) -> str:
        return f" of {self.around.describe()}" if self.around is not None and self.around.field else ""


def node_name(node: onnx.NodeProto) -> str:
    """What a user calls a node."""
    return f"node {short(node.name or (node.output[0] if node.output else ''))} ({short(node.op_type)[1:-1]})"


def short(name: object, longest: int = 80) -> str:
    """A name from a model, quoted, as a message may hold it."""
    text = repr(name)
    return text if len(text) <= longest else f"{text[: longest - 4]}...{text[-1]}"


def walk(message: Message) -> list[Part]:
    """All messages in a message, itself included, each before those in it. Text that is not UTF-8 is mended.

    Protobuf has names in UTF-8, but not every exporter: of others the wrong bytes become escapes, alike wherever the
    name stands. The data of tensors is not looked at.
    """
    found = []
    pending = [Part(message)]
    while pending:
        part = pending.pop()
        found.append(part)
        inside = []
        for field, value in _fields_of(part.message):
            if field.message_type is not None:
                several = [value] if isinstance(value, Message) else value
                inside += [Part(each, field.name, part) for each in several]
            elif field.type == FieldDescriptor.TYPE_STRING:
                _mend(part.message, field.name, value)
        pending.extend(reversed(inside))
    return found


def _fields_of(message: Message) -> Iterator[tuple[FieldDescriptor, Any]]:
    """The fields that are set; of tensors only those that hold names and the like, as their data would be copied."""
    if not isinstance(message, onnx.TensorProto):
        yield from message.ListFields()
        return
    for field in _small_fields(message.DESCRIPTOR):
        value = getattr(message, field.name)
        if not isinstance(value, Message) or message.HasField(field.name):
            yield field, value


@functools.cache
def _small_fields(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    return tuple(
        field
        for field in descriptor.fields
        if field.message_type is not None or field.type == FieldDescriptor.TYPE_STRING
    )


def _mend(message: Message, field: str, value: Any) -> None:
    if isinstance(value, bytes):
        setattr(message, field, _text(value))
    elif not isinstance(value, str):
        for index, each in enumerate(value):
            if isinstance(each, bytes):
                value[index] = _text(each)


def _text(value: bytes) -> str:
    return value.decode("utf-8", errors="backslashreplace")
