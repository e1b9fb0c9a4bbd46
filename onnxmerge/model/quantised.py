"""Which integer initializers are weights: those that quantised operators read, or that are restored to floats."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmerge.errors import QuantisedError
from onnxmerge.model.network import ModelSet
from onnxmerge.model.restored import is_restored
from onnxmerge.types import Array

STANDARD = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
    }
)
MICROSOFT = frozenset(
    {
        "DequantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulBnb4",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "NhwcMaxPool",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QMoE",
        "QuantizeLinear",
    }
)


def reads_quantised(node: ir.Node) -> bool:
    """Whether integer initializers of this node are quantised weights, biases or zero points, not indices or shapes."""
    if node.domain in {"", "ai.onnx"}:
        return node.op_type in STANDARD
    return node.domain == "com.microsoft" and (node.op_type in MICROSOFT or node.op_type.startswith("QLinear"))


def is_quantised_weight(value: ir.Value) -> bool:
    """Whether an initializer is read by a quantised operator, directly or through Identity, or restored to a weight."""
    pending = [value]
    while pending:
        for node, _ in pending.pop().uses():
            if reads_quantised(node):
                return True
            if node.op_type == "Identity" and node.domain in {"", "ai.onnx"}:
                pending.append(node.outputs[0])
    return is_restored(value)


def is_constant(value: ir.Value) -> bool:
    """Whether an initializer is the same in all networks that pair up: integers, unless they are quantised weights."""
    tensor = value.const_value
    integers = tensor is not None and (tensor.dtype.is_integer() or tensor.dtype == ir.DataType.BOOL)
    return integers and not is_quantised_weight(value)


def require_alike_quantised(models: ModelSet) -> None:
    """Refuse networks whose quantised weights hold other numbers: integers have no mean.

    The same numbers in another order may be those of a network with its units permuted, which can be merged. Raises
    QuantisedError.
    """
    for name, value in models.template.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_integer() or not is_quantised_weight(value):
            continue
        first = _numbers(models.weights[0][name])
        for own, network in zip(models.weights[1:], models.sources[1:], strict=True):
            if not np.array_equal(first, _numbers(own[name])):
                raise QuantisedError(
                    f"{models.template.label} and {network.label} are quantised differently (initializer {name!r}, "
                    f"{tensor.dtype.name.lower()}): integers have no mean; merge the "
                    "float models, then quantise the result"
                )


def _numbers(array: Array) -> Array:
    """The bytes of an array in order of size: the same for all orders of its elements."""
    found: Array = np.sort(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return found
