"""Activations that are rounded by a scale which is computed from them: there is nothing to be measured.

DynamicQuantizeLinear gives the integers with their scale and zero point, MatMulInteger or ConvInteger multiplies them
by the codes of a weight, and the result is cast to floats and multiplied by both scales. DynamicQuantizeMatMul is all
of it in one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxmerge.model.codes import Plain
from onnxmerge.model.dequantise.operands import (
    Operand,
    array_of,
    input_of,
    is_initializer,
    only_reader,
    shape_of,
)
from onnxmerge.model.dequantise.translation import Integers, Translation

_PRODUCTS: Mapping[str, str] = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}


@dataclass(frozen=True, slots=True, eq=False)
class _Factor:
    """A number that something is multiplied by: operand ``place`` of ``node``."""

    value: ir.Value
    node: ir.Node
    place: int


def quantise_dynamically(translation: Translation, node: ir.Node) -> None:
    """DynamicQuantizeLinear: its outputs are the integers, their scale and their zero point."""
    codes, scale, zero = node.outputs
    translation.integers[codes] = Integers(translation.value(node, 0), scale, zero, None)


def integer_product(translation: Translation, node: ir.Node) -> None:
    """MatMulInteger, ConvInteger: cast to floats and multiplied by the scales of both operands, it is a product."""
    cast = only_reader(node.outputs[0])
    if cast is None or cast.op_type != "Cast":
        raise translation.refusal(node, "is not cast to floats next")
    last, factors = _factors(cast)
    inputs = [_scaled(translation, node, side, factors) for side in (0, 1)]
    new = ir.Node("", _PRODUCTS[node.op_type], inputs, [*node.attributes.values()], name=node.name)
    translation.graph.insert_before(last, new)
    translation.graph.put(last, new.outputs[0])


def matmul(translation: Translation, node: ir.Node) -> None:
    """DynamicQuantizeMatMul: floats in and out, by a weight of integers, and a bias of floats."""
    activation, operand = translation.value(node, 0), translation.operand(node, 1)
    shape, dtype = translation.codes(node, operand.value)
    form = Plain(shape, dtype, len(shape) - 1 if array_of(operand.scale).size > 1 else None)
    weight = translation.weight(node, operand, form, place=2)
    translation.graph.put_product(node, activation, weight.floats, input_of(node, 4))


def _factors(cast: ir.Node) -> tuple[ir.Node, list[_Factor]]:
    """What the result of a Cast is multiplied by next, two factors at most, and the last node that does so.

    Exporters multiply by both scales in turn, or by their product.
    """
    found, last = list[_Factor](), cast
    while len(found) < 2:
        reader = only_reader(last.outputs[0])
        if reader is None or reader.op_type != "Mul":
            break
        place = 1 if reader.inputs[0] is last.outputs[0] else 0
        other = reader.inputs[place]
        maker = None if other is None else other.producer()
        if maker is not None and maker.op_type == "Mul":
            found += [_Factor(value, maker, at) for at, value in enumerate(maker.inputs) if value is not None]
        elif other is not None:
            found.append(_Factor(other, reader, place))
        last = reader
    return last, found


def _scaled(translation: Translation, node: ir.Node, side: int, factors: list[_Factor]) -> ir.Value:
    """The float twin of an operand of a product of integers, whose scale is taken out of ``factors``."""
    value, zero = input_of(node, side), input_of(node, 2 + side)
    known = None if value is None else translation.integers.get(value)
    if known is not None and known.is_computed:
        mine = [each for each in factors if each.value is known.scale and zero is known.zero]
    else:
        mine = [each for each in factors if each.value.const_value is not None]
    if not mine or value is None:
        raise translation.refusal(node, "is not multiplied by the scales of what it reads")
    factors.remove(mine[0])
    if known is not None and known.is_computed:
        return known.floats
    weight = _weight(translation, node, Operand(value, mine[0].value, zero))
    translation.notes.add_use(str(value.name), mine[0].node, mine[0].place)
    translation.notes.add_use(str(value.name), node, 2 + side)
    return weight


def _weight(translation: Translation, node: ir.Node, operand: Operand) -> ir.Value:
    """The float twin of a weight by whose scale the result is multiplied."""
    shape, dtype = translation.codes(node, operand.value)
    count, zero = array_of(operand.scale).size, operand.zero
    by_columns = node.op_type == "MatMulInteger" and operand.value is node.inputs[1]
    alike = shape_of(operand.scale)[-1:] == shape[-1:] == (count,)
    if count > 1 and not (by_columns and alike):
        raise translation.refusal(node, "has scales that belong to no axis of its weight")
    if zero is not None and (not is_initializer(zero) or array_of(zero).size not in {1, count}):
        raise translation.refusal(node, "has zero points that belong to no axis of its weight")
    form = Plain(shape, dtype, len(shape) - 1 if count > 1 else None)
    return translation.weight(node, operand, form).floats
