"""Which integer initializers are weights: those that quantised operators read."""

from __future__ import annotations

import onnx_ir as ir

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
    """Whether an initializer is read by a quantised operator, directly or through Identity."""
    pending = [value]
    while pending:
        for node, _ in pending.pop().uses():
            if reads_quantised(node):
                return True
            if node.op_type == "Identity" and node.domain in {"", "ai.onnx"}:
                pending.append(node.outputs[0])
    return False
