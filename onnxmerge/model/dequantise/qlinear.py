"""Operators on integers, each operand and the output with its scale and zero point: QLinearConv and its likes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxmerge.model.codes import Plain
from onnxmerge.model.dequantise.operands import (
    array_of,
    input_of,
    integer_of,
    is_initializer,
    operator_of,
)
from onnxmerge.model.dequantise.translation import Integers, Translation
from onnxmerge.model.opset import MICROSOFT
from onnxmerge.model.scheme import CodedBias

SOFTMAX_BY_AXIS = 13
"""From this opset on Softmax is along one axis; before, along all from it on."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which float operator one on integers stands for, and where that has its operands.

    ``operands`` are the first of three each (tensor, scale, zero point), ``output`` is the scale of the output, which
    its zero point follows, ``bias`` an operand of 32 bits. ``channels`` is the axis of a weight that scales lie along,
    0 too where the attribute ``transposed`` is set.
    """

    floats: str
    operands: tuple[int, ...]
    output: int
    bias: int | None = None
    channels: int = -1
    transposed: str = ""

    def channels_of(self, node: ir.Node) -> int:
        """The axis of the weight of a node that its scales lie along."""
        return 0 if self.transposed and integer_of(node, self.transposed) else self.channels


LAYOUTS: Mapping[tuple[str, str], Layout] = {
    ("", "QLinearConv"): Layout("Conv", (0, 3), 6, bias=8, channels=0),
    ("", "QLinearMatMul"): Layout("MatMul", (0, 3), 6),
    (MICROSOFT, "QGemm"): Layout("Gemm", (0, 3), 7, bias=6, transposed="transB"),
    (MICROSOFT, "QLinearAdd"): Layout("Add", (0, 3), 6),
    (MICROSOFT, "QLinearMul"): Layout("Mul", (0, 3), 6),
    (MICROSOFT, "QLinearSigmoid"): Layout("Sigmoid", (0,), 3),
    (MICROSOFT, "QLinearLeakyRelu"): Layout("LeakyRelu", (0,), 3),
    (MICROSOFT, "QLinearSoftmax"): Layout("Softmax", (0,), 3),
    (MICROSOFT, "QLinearGlobalAveragePool"): Layout("GlobalAveragePool", (0,), 3),
    (MICROSOFT, "QLinearAveragePool"): Layout("AveragePool", (0,), 3),
}
"""By domain and operator."""

_LEFT_OUT = {"opset", "channels_last"}
"""Attributes that no float operator has."""


def qlinear(translation: Translation, node: ir.Node) -> None:
    """An operator of LAYOUTS, as that on floats."""
    layout = LAYOUTS[operator_of(node)]
    _require_plain(translation, node)
    operands = [_operand(translation, node, place, layout.channels_of(node)) for place in layout.operands]
    inputs = [each.floats for each in operands]
    bias = None if layout.bias is None else input_of(node, layout.bias)
    if bias is not None:
        if not is_initializer(bias):
            raise translation.refusal(node, "has a bias that is computed")
        name, (activation, weight) = str(bias.name), operands
        known = CodedBias(name, name, str(activation.scale.name), str(weight.scale.name), None)
        one, other = ((str(node.name), place + 1) for place in layout.operands)
        inputs.append(translation.bias(bias, activation.scale, known, (one, other)))
    _compute(translation, node, layout.floats, inputs, layout.output)


def concatenation(translation: Translation, node: ir.Node) -> None:
    """QLinearConcat: the scale and zero point of the output come first."""
    places = range(2, max(len(node.inputs), 3), 3)  # there is one at least
    parts = [_operand(translation, node, place, -1).floats for place in places]
    _compute(translation, node, "Concat", parts, 0)


def _require_plain(translation: Translation, node: ir.Node) -> None:
    """Raise InputError for attributes that the float operator does not have."""
    attributes = node.attributes
    by_axis = translation.graph.opset >= SOFTMAX_BY_AXIS
    old = "opset" in attributes and (attributes["opset"].as_int() >= SOFTMAX_BY_AXIS) != by_axis
    if old or integer_of(node, "channels_last"):
        raise translation.refusal(node, "has its axes in an order that the float operator does not know")
    if node.op_type == "QGemm" and "alpha" in attributes and attributes["alpha"].as_float() != 1:
        raise translation.refusal(node, "multiplies by alpha")


def _operand(translation: Translation, node: ir.Node, place: int, channels: int) -> Integers:
    """One operand (tensor, scale, zero point): an activation that is known, or a weight."""
    operand = translation.operand(node, place)
    known = translation.integers.get(operand.value)
    if known is not None and not known.is_weight:
        return translation.read(node, place)
    axis, scales = None, array_of(operand.scale).size
    if scales > 1 and place == 0:
        raise translation.refusal(node, "has scales along an axis for what stands in front of its weight")
    shape, dtype = translation.codes(node, operand.value)
    if scales > 1:
        if not shape or scales != shape[channels]:
            raise translation.refusal(node, "has scales that belong to no axis of its weight")
        axis = channels % len(shape)
    form = Plain(shape, dtype, axis)
    return translation.weight(node, operand, form, place=place + 1)


def _compute(translation: Translation, node: ir.Node, operator: str, inputs: Sequence[ir.Value], output: int) -> None:
    """Put a float operator in place of ``node``, whose output is rounded by operands ``output`` and the next."""
    old, graph = node.outputs[0], translation.graph
    attributes = [each for name, each in node.attributes.items() if name not in _LEFT_OUT]
    new = ir.Node("", operator, [*inputs], attributes, name=node.name)
    new.outputs[0].name, new.outputs[0].shape = old.name, old.shape
    new.outputs[0].type = inputs[0].type
    graph.insert_after(node, new)
    if input_of(node, output) is None:  # the output is of floats
        graph.put(node, new.outputs[0])
        return
    _, zero = translation.scale(node, output)
    old.name = graph.names.fresh(f"{old.name}/codes")
    dtype = translation.code_type(node, zero)
    translation.integers[old] = translation.rounded(node, output, new.outputs[0], dtype)
