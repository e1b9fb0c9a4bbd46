"""What the nodes of a quantised network read: tensors, their scales and zero points, and what initializers hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxmerge.errors import InputError
from onnxmerge.model.network import Network
from onnxmerge.model.opset import MICROSOFT
from onnxmerge.model.signature import STANDARD
from onnxmerge.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """A tensor that a node reads, by a scale and a zero point (None: 0)."""

    value: ir.Value
    scale: ir.Value
    zero: ir.Value | None


def refusal(network: Network, node: ir.Node, why: str) -> InputError:
    """What is raised for a node that has no float form."""
    return InputError(
        f"{network.label}: node {node.name!r} ({node.op_type}) {why}, so the model cannot be dequantised; "
        "merge the float models, then quantise the result"
    )


def operator_of(node: ir.Node) -> tuple[str, str]:
    """The domain and the name of a node's operator; the standard domain is "", however it is written."""
    return "" if node.domain in STANDARD else node.domain, node.op_type


def is_dequantise_linear(node: ir.Node) -> bool:
    """Whether a node is a DequantizeLinear, of ONNX or of ONNX Runtime."""
    return operator_of(node) in {("", "DequantizeLinear"), (MICROSOFT, "DequantizeLinear")}


def input_of(node: ir.Node, place: int) -> ir.Value | None:
    """What a node reads at a place; None where that is left out."""
    return node.inputs[place] if place < len(node.inputs) else None


def integer_of(node: ir.Node, name: str, default: int = 0) -> int:
    """An attribute."""
    return node.attributes[name].as_int() if name in node.attributes else default


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value; None where several do, or the value is an output of the graph."""
    readers = [node for node, _ in value.uses()]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def is_initializer(value: ir.Value) -> bool:
    """Whether a value is stored, not computed."""
    return value.const_value is not None and value.producer() is None


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    """What an initializer holds. Raises InputError where that is missing."""
    if value.const_value is None:
        raise InputError(f"initializer {value.name!r} has no data; export the model again")
    return value.const_value


def array_of(value: ir.Value) -> Array:
    """The same as an array."""
    return tensor_of(value).numpy()


def zeros_of(value: ir.Value | None) -> Array:
    """Zero points, [scales] or one; those of packed weights may lie between codes."""
    return np.zeros(1) if value is None else array_of(value).astype(np.float64).reshape(-1)


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The shape of an initializer."""
    return tuple(tensor_of(value).shape.numpy())


def dtype_of(value: ir.Value) -> np.dtype[np.generic]:
    """The type of an initializer."""
    return tensor_of(value).dtype.numpy()
