"""Weights that are packed in blocks of few bits, by which floats are multiplied."""

from __future__ import annotations

import onnx_ir as ir

from onnxmerge.model.codes import NBits
from onnxmerge.model.dequantise.operands import Operand, input_of, integer_of, is_initializer
from onnxmerge.model.dequantise.translation import Translation

_BITS = {2, 4, 8}


def matmul_nbits(translation: Translation, node: ir.Node) -> None:
    """MatMulNBits: floats in and out, by a weight that is packed in blocks."""
    activation, value, scale, zero, order, bias = (input_of(node, place) for place in range(6))
    bits, size = integer_of(node, "bits", 4), integer_of(node, "block_size")
    if activation is None or value is None or scale is None or not is_initializer(scale):
        raise translation.refusal(node, "lacks an operand, or computes its scale")
    if order is not None or bits not in _BITS:
        raise translation.refusal(node, f"has its inputs in another order, or {bits} bits")
    form = NBits(bits, size, integer_of(node, "K"), integer_of(node, "N"))
    weight = translation.weight(node, Operand(value, scale, zero), form, place=2)
    translation.graph.put_product(node, activation, weight.floats, bias)
