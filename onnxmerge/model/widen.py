"""Run a bfloat16 model where ONNX Runtime has hardly any bfloat16 kernels: the same graph in float32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

NARROW, WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT
TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "stash_type", "softmax_precision"})
"""Integer attributes that hold an element type."""


def has_bfloat16(model: ir.Model) -> bool:
    """Whether bfloat16 occurs in an input, an initializer, or an attribute that makes a tensor."""
    if any(value.dtype == NARROW or _is_narrow(value.const_value) for value in _declared(model)):
        return True
    attributes = (attribute for node in model.graph.all_nodes() for attribute in node.attributes.values())
    return any(_widened(attribute) is not None for attribute in attributes)


def widen(model: ir.Model) -> None:
    """Turn every bfloat16 into float32, in place. Weights are converted when they are read, each on its own.

    Every bfloat16 is a float32, so nothing is rounded that was not; what the model itself would round is not rounded.
    """
    for value in _declared(model):
        tensor = value.const_value
        if tensor is not None and tensor.dtype == NARROW:
            value.const_value = _wide(tensor)
        _widen_type(value)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            _widen_type(value)
        for name, attribute in list(node.attributes.items()):
            wider = _widened(attribute)
            if wider is not None:
                node.attributes[name] = wider


def _declared(model: ir.Model) -> Iterator[ir.Value]:
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from graph.inputs
        yield from graph.initializers.values()


def _widen_type(value: ir.Value) -> None:
    if value.dtype == NARROW:
        # Types are shared between copies of a graph: a new one, not a changed one.
        value.type = ir.TensorType(WIDE) if isinstance(value.type, ir.TensorType) else None


def _widened(attribute: ir.Attr) -> ir.Attr | None:
    """The attribute in float32, or None where it says nothing of bfloat16."""
    if attribute.type == ir.AttributeType.INT and attribute.name in TYPE_ATTRIBUTES:
        return ir.AttrInt64(attribute.name, WIDE.value) if attribute.as_int() == NARROW.value else None
    if attribute.type == ir.AttributeType.TENSOR and _is_narrow(attribute.as_tensor()):
        return ir.AttrTensor(attribute.name, _wide(attribute.as_tensor()))
    return None


def _is_narrow(tensor: ir.TensorProtocol | None) -> bool:
    return tensor is not None and tensor.dtype == NARROW


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.LazyTensor(
        lambda: ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name),
        WIDE,
        ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )
