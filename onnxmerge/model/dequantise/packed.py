"""Weights that are packed in blocks of few bits, by which floats are multiplied."""

from __future__ import annotations

import onnx_ir as ir

from onnxmerge.model.codes import NBits
from onnxmerge.model.dequantise.operands import input_of, integer_of
from onnxmerge.model.dequantise.translation import Translation

_BITS = {2, 4, 8}


def matmul_nbits(translation: Translation, node: ir.Node) -> None:
    """MatMulNBits: floats in and out, by a weight that is packed in blocks."""
    activation, operand = translation.value(node, 0), translation.operand(node, 1)
    order, bias = input_of(node, 4), input_of(node, 5)
    bits, size = integer_of(node, "bits", 4), integer_of(node, "block_size")
    if order is not None or bits not in _BITS:
        raise translation.refusal(node, f"has its inputs in another order, or {bits} bits")
    form = NBits(bits, size, integer_of(node, "K"), integer_of(node, "N"))
    weight = translation.weight(node, operand, form, place=2)
    translation.graph.put_product(node, activation, weight.floats, bias)
