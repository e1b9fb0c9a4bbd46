"""A graph in a wider float type.

bfloat16 models run in float32, since ONNX Runtime has hardly any bfloat16 kernels; and what float32 cannot decide is
computed in float64 (``validation.double``).
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

NARROW, WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT
TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "stash_type", "softmax_precision"})
"""Integer attributes that hold an element type."""


def has_bfloat16(model: ir.Model) -> bool:
    """Whether bfloat16 occurs in an input, an initializer, or an attribute that makes a tensor."""
    if any(value.dtype == NARROW or _is_narrow(value.const_value) for value in _declared(model)):
        return True
    attributes = (attribute for node in model.graph.all_nodes() for attribute in node.attributes.values())
    return any(_widened(attribute, NARROW, WIDE) is not None for attribute in attributes)


def widen(model: ir.Model, narrow: ir.DataType = NARROW, wide: ir.DataType = WIDE) -> None:
    """Turn every ``narrow`` float into a ``wide`` one, in place. Weights are converted when they are read, one by one.

    Every narrow number is a wide one, so nothing is rounded that was not; what the model itself would round is not
    rounded.
    """
    for value in _declared(model):
        tensor = value.const_value
        if tensor is not None and tensor.dtype == narrow:
            value.const_value = _wide(tensor, wide)
        _widen_type(value, narrow, wide)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            _widen_type(value, narrow, wide)
        for name, attribute in list(node.attributes.items()):
            wider = _widened(attribute, narrow, wide)
            if wider is not None:
                node.attributes[name] = wider


def _declared(model: ir.Model) -> Iterator[ir.Value]:
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from graph.inputs
        yield from graph.initializers.values()


def _widen_type(value: ir.Value, narrow: ir.DataType, wide: ir.DataType) -> None:
    if value.dtype == narrow:
        # Types are shared between copies of a graph: a new one, not a changed one.
        value.type = ir.TensorType(wide) if isinstance(value.type, ir.TensorType) else None


def _widened(attribute: ir.Attr, narrow: ir.DataType, wide: ir.DataType) -> ir.Attr | None:
    """The attribute in the wide type, or None where it says nothing of the narrow one."""
    if attribute.type == ir.AttributeType.INT and attribute.name in TYPE_ATTRIBUTES:
        return ir.AttrInt64(attribute.name, wide.value) if attribute.as_int() == narrow.value else None
    if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == narrow:
        return ir.AttrTensor(attribute.name, _wide(attribute.as_tensor(), wide))
    return None


def _is_narrow(tensor: ir.TensorProtocol | None) -> bool:
    return tensor is not None and tensor.dtype == NARROW


def _wide(tensor: ir.TensorProtocol, wide: ir.DataType) -> ir.TensorProtocol:
    return ir.LazyTensor(
        lambda: ir.Tensor(tensor.numpy().astype(wide.numpy()), name=tensor.name),
        wide,
        ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )
