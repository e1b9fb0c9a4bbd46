"""What one node computes, written so that two exporters' spellings of the same thing come out equal."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxmerge.model.traits import has, known_for

STANDARD = frozenset({"", "ai.onnx"})

EPOCHS: Mapping[str, tuple[int, ...]] = {
    "GridSample": (20,),
    "GroupNormalization": (21,),
    "Hardmax": (13,),
    "LogSoftmax": (13,),
    "Resize": (11,),
    "RoiAlign": (16,),
    "Softmax": (13,),
}
"""Opsets at which the same attributes of an operator came to mean something else."""

IGNORED: Mapping[str, frozenset[str]] = {
    "BatchNormalization": frozenset({"momentum", "spatial", "is_test", "consumed_inputs"}),
}
"""Attributes that do not matter in inference, whatever their value."""

WINDOW_DEFAULTS: Mapping[str, int] = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}
"""What these attributes are along each axis where they are left out, which no schema says."""

Value = tuple[Any, ...] | str | int | float


@dataclass(frozen=True, slots=True)
class Signature:
    """A node without its operands.

    ``attributes`` leaves out what equals its default; ``graphs`` are the names of the attributes that hold subgraphs,
    with how many inputs and outputs each has.
    """

    domain: str
    op_type: str
    epoch: int
    attributes: tuple[tuple[str, Value], ...]
    graphs: tuple[tuple[str, int, int], ...]

    @property
    def commutative(self) -> bool:
        return known_for(self.domain, self.op_type, "commutative")


def signature(node: ir.Node, opsets: Mapping[str, int]) -> Signature:
    """The signature of a node in a model that imports ``opsets``."""
    domain = "" if node.domain in STANDARD else node.domain
    version = opsets.get(domain, opsets.get("ai.onnx", 1) if not domain else 1)
    defaults = attribute_defaults(node.op_type, domain, version)
    ignored = IGNORED.get(node.op_type, frozenset())
    attributes = {
        name: value
        for name, attribute in node.attributes.items()
        if name not in ignored
        and attribute.type not in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}
        and (value := _canonical(attribute)) != defaults.get(name)
    }
    if has(node, "convolves", "pools"):
        _drop_window_defaults(node, attributes)
    epoch = max((since for since in EPOCHS.get(node.op_type, ()) if since <= version), default=0) if not domain else 0
    return Signature(
        domain,
        node.op_type,
        epoch,
        tuple(sorted(attributes.items())),
        tuple((name, len(graph.inputs), len(graph.outputs)) for name, graph in subgraphs(node)),
    )


def subgraphs(node: ir.Node) -> list[tuple[str, ir.Graph]]:
    """The subgraphs of a node with the names of the attributes that hold them, in order of name."""
    found: list[tuple[str, ir.Graph]] = []
    for name in sorted(node.attributes):
        attribute = node.attributes[name]
        if attribute.type == ir.AttributeType.GRAPH:
            found.append((name, attribute.as_graph()))
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend((f"{name}[{index}]", graph) for index, graph in enumerate(attribute.as_graphs()))
    return found


def operands(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, its subgraphs' nodes included."""
    yield from (value for value in node.inputs if value is not None)
    for _, graph in subgraphs(node):
        for inner in graph:
            yield from operands(inner)
        yield from graph.outputs


def _drop_window_defaults(node: ir.Node, attributes: dict[str, Value]) -> None:
    if has(node, "convolves"):
        attributes.pop("kernel_shape", None)  # the weight's shape says the same
    if attributes.get("auto_pad") == "VALID":
        del attributes["auto_pad"]
        attributes.pop("pads", None)
    for name, default in WINDOW_DEFAULTS.items():
        value = attributes.get(name)
        if isinstance(value, tuple) and all(item == default for item in value):
            del attributes[name]


@functools.cache
def attribute_defaults(op_type: str, domain: str, version: int) -> Mapping[str, Value]:
    """Defaults of an operator's attributes as its schema states them; none for an operator that onnx does not know."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return {}
    return {
        name: _canonical(ir.serde.deserialize_attribute(attribute.default_value))
        for name, attribute in schema.attributes.items()
        if attribute.default_value.type != onnx.AttributeProto.UNDEFINED
    }


def _canonical(attribute: ir.Attr) -> Value:
    """The value of an attribute, hashable, with floats rounded to the float32 in which they are stored."""
    kind, value = attribute.type, attribute.value
    if kind == ir.AttributeType.FLOAT:
        return float(np.float32(attribute.as_float()))
    if kind == ir.AttributeType.FLOATS:
        return tuple(np.asarray(attribute.as_floats(), np.float32).tolist())
    if kind == ir.AttributeType.TENSOR:
        return _tensor(attribute.as_tensor())
    if kind == ir.AttributeType.TENSORS:
        return tuple(_tensor(tensor) for tensor in attribute.as_tensors())
    if kind in {ir.AttributeType.INT, ir.AttributeType.STRING}:
        return value if isinstance(value, int | str) else str(value)
    if kind in {ir.AttributeType.INTS, ir.AttributeType.STRINGS}:
        return tuple(value) if value is not None else ()
    return str(value)


def _tensor(tensor: ir.TensorProtocol) -> Value:
    if tensor.dtype == ir.DataType.STRING:
        return ("string", tuple(map(str, np.asarray(tensor.numpy()).reshape(-1).tolist())))
    return (str(tensor.dtype), tuple(tensor.shape.numpy()), tensor.tobytes())
