"""QuantizeLinear and DequantizeLinear: the one rounds floats to integers, the other restores integers to floats."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmerge.model.codes import Plain
from onnxmerge.model.dequantise.operands import (
    Operand,
    array_of,
    dtype_of,
    input_of,
    integer_of,
    is_dequantise_linear,
    is_initializer,
    shape_of,
    tensor_of,
    zeros_of,
)
from onnxmerge.model.dequantise.translation import Translation
from onnxmerge.model.scheme import CodedBias

CLOSE = 1e-3
"""Relative difference of two scales that are meant to be the same."""
_BIASED = {"Conv", "Gemm", "ConvTranspose"}


def quantise_linear(translation: Translation, node: ir.Node) -> None:
    """QuantizeLinear: of an activation, or of a weight that the file holds in floats."""
    operand = translation.operand(node, 0)
    shape = shape_of(operand.value) if is_initializer(operand.value) else ()
    axis, size = _axis_of(translation, node, operand, shape)
    dtype = translation.code_type(node, operand.zero)
    if is_initializer(operand.value):
        form = Plain(shape, dtype, axis, size)
        found = translation.weight(node, operand, form, place=1, stored=False)
    else:
        found = translation.rounded(node, 1, operand.value, dtype)
    translation.integers[node.outputs[0]] = found


def dequantise_linear(translation: Translation, node: ir.Node) -> None:
    """DequantizeLinear: of a weight, of a bias, or of an activation that was rounded before."""
    operand = translation.operand(node, 0)
    told = integer_of(node, "output_dtype")
    if told and told != tensor_of(operand.scale).dtype.value:
        raise translation.refusal(node, "gives another type than its scale has")
    known = translation.integers.get(operand.value)
    if known is not None:
        form = known.form
        if form is not None and _axis_of(translation, node, operand, form.shape) != (form.axis, form.size):
            raise translation.refusal(node, "restores a weight along another axis than it was rounded along")
        translation.graph.put(node, translation.read(node, 0).floats)
        return
    bias = _bias(translation, node, operand)
    translation.graph.put(node, _weight(translation, node, operand) if bias is None else bias)


def _weight(translation: Translation, node: ir.Node, operand: Operand) -> ir.Value:
    shape, dtype = translation.codes(node, operand.value)
    form = Plain(shape, dtype, *_axis_of(translation, node, operand, shape))
    return translation.weight(node, operand, form, place=1).floats


def _axis_of(
    translation: Translation, node: ir.Node, operand: Operand, shape: tuple[int, ...]
) -> tuple[int | None, int]:
    """Along which axis of a tensor scales lie (None: there is one), and how many places share one (0: none do)."""
    scales = shape_of(operand.scale)
    if array_of(operand.scale).size == 1:
        return None, 0
    axis, size = integer_of(node, "axis", 1), integer_of(node, "block_size")
    axis += len(shape) if axis < 0 else 0
    if 0 <= axis < len(shape):
        if not size and scales == (shape[axis],):
            return axis, 0
        blocked = tuple(count // size if size and at == axis else count for at, count in enumerate(shape))
        if size and shape[axis] % size == 0 and scales == blocked:
            return axis, size
    raise translation.refusal(node, f"has scales of shape {list(scales)} for a tensor of shape {list(shape)}")


def _bias(translation: Translation, node: ir.Node, operand: Operand) -> ir.Value | None:
    """The float twin of a bias of 32 bits whose scale is the product of those beside it; None for what is none."""
    value, scale = operand.value, operand.scale
    if not is_initializer(value) or dtype_of(value) != np.int32 or zeros_of(operand.zero).any():
        return None
    makers = _restored_beside(translation, node)
    scales = [each for each in (input_of(maker, 1) for maker in makers) if each is not None and is_initializer(each)]
    if len(scales) != 2 or all(array_of(each).size != 1 for each in scales):
        return None
    name = str(value.name)
    known = CodedBias(name, name, str(scales[0].name), str(scales[1].name), str(scale.name))
    factor, told = known.factor(translation.network.weights), array_of(scale).reshape(-1)
    if factor.size not in {1, told.size} or not np.allclose(factor, told, rtol=CLOSE, atol=0):
        return None
    translation.notes.add_scale(name, node, 1)
    activation, weight = ((str(maker.name), 1) for maker in makers)
    return translation.bias(value, scale, known, (activation, weight))


def _restored_beside(translation: Translation, node: ir.Node) -> tuple[ir.Node, ...]:
    """The DequantizeLinears of the activation and of the weight to whose product a layer adds what ``node`` gives.

    They are those of the network as it was read, which the float form may lack by now. Fewer than two where ``node``
    gives no such bias.
    """
    users = translation.originals[str(node.name)].outputs[0].uses()
    if len(users) != 1:
        return ()
    reader, place = next(iter(users))
    makers = [None if value is None else value.producer() for value in reader.inputs[:2]]
    if reader.op_type not in _BIASED or place != 2:
        return ()
    return tuple(maker for maker in makers if maker is not None and is_dequantise_linear(maker))
