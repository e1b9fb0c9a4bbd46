"""Weights that are packed in blocks of few bits, by which floats are multiplied."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmerge.model.codes import NBits
from onnxmerge.model.dequantise.operands import Operand, dtype_of, input_of, integer_of, is_initializer, shape_of
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
    _require_fitting(translation, node, operand, form)
    weight = translation.weight(node, operand, form, place=2)
    translation.graph.put_product(node, activation, weight.floats, bias)


def _require_fitting(translation: Translation, node: ir.Node, operand: Operand, form: NBits) -> None:
    """Raise InputError where what is stored has another size than the attributes say.

    Codes are [outputs, blocks, bytes]; scales and zero points may be flat, zero points of whole bytes are packed.
    """
    told = f"K={form.inputs}, N={form.outputs}, bits={form.bits} and block_size={form.size}"
    if min(form.inputs, form.outputs, form.size) < 1 or form.size * form.bits % 8:
        raise translation.refusal(node, f"has no weight by {told}")
    blocks = -(-form.inputs // form.size)
    packed = operand.zero is not None and dtype_of(operand.zero) == np.uint8
    row = -(-blocks * form.bits // 8) if packed else blocks
    wanted: dict[str, tuple[ir.Value | None, set[tuple[int, ...]]]] = {
        "codes": (operand.value, {(form.outputs, blocks, form.size * form.bits // 8)}),
        "scales": (operand.scale, {(form.outputs, blocks), (form.outputs * blocks,)}),
        "zero points": (operand.zero, {(form.outputs, row), (form.outputs * row,)}),
        "a bias": (input_of(node, 5), {(form.outputs,)}),
    }
    for what, (value, shapes) in wanted.items():
        if value is not None and is_initializer(value) and shape_of(value) not in shapes:
            expected = " or ".join(str([*shape]) for shape in sorted(shapes, key=len, reverse=True))
            why = f"has {what} of shape {[*shape_of(value)]}, expected {expected} by {told}"
            raise translation.refusal(node, why)
