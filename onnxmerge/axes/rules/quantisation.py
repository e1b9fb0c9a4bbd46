"""Quantised operators: scales and zero points are per tensor, along an axis, or in blocks of one."""

from __future__ import annotations

from onnxmerge.axes.node_context import NodeContext
from onnxmerge.axes.rules.contraction import apply_patterns
from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.rules.segments import concat_axes
from onnxmerge.axes.signature import Axes


@rule("quantise", typed=None)
def quantise(context: NodeContext) -> tuple[Axes | None, ...]:
    """QuantizeLinear, DequantizeLinear: scale and zero point follow the axis that they belong to."""
    shape, scale = context.shape(0), context.shape(1)
    if shape is None or scale is None:
        return context.freeze("a quantisation of unknown shape")
    letters = [f"a{index}" for index in range(len(shape))]
    whole = " ".join(letters)
    count = len(context.node.inputs) - 1
    axis = context.axis(len(shape), 1)
    if all(size == 1 for size in scale):
        factors = "*one"
    elif len(scale) == 1 and scale[0] == shape[axis]:
        factors = letters[axis]
    elif len(scale) == len(shape) and shape[axis] % scale[axis] == 0:
        factors = whole
        whole = " ".join(f"({a} w)" if index == axis else a for index, a in enumerate(letters))
    else:
        return context.freeze(f"scales of shape {list(scale)} for a tensor of shape {list(shape)}")
    return apply_patterns(context, [whole, *[factors] * count], [whole])


@rule("dynamic_quantise")
def dynamic_quantise(context: NodeContext) -> tuple[Axes | None, ...]:
    """DynamicQuantizeLinear: the scale is a maximum over everything, in which no unit counts more than another."""
    axes = context.operand(0)
    return (axes, (), ()) if axes is not None else context.freeze("a quantisation of unknown shape")


@rule("quantised_matmul", typed=None)
def quantised_matmul(context: NodeContext) -> tuple[Axes | None, ...]:
    """QLinearMatMul and MatMulInteger: zero points and scales per row of A, per column of B, or one."""
    names = _MATMULS[context.node.op_type]
    ranks = [len(context.shape(index) or ()) for index in (names.index("A"), names.index("B"))]
    if min(ranks) < 2:
        return context.freeze("a quantised product with a vector")
    inputs = [_factors(context, index, name) for index, name in enumerate(names)]
    return apply_patterns(context, inputs[: len(context.node.inputs)], ["*b m n"])


_MATMULS = {
    "QLinearMatMul": ("A", "row", "row", "B", "column", "column", "row", "row"),
    "MatMulInteger": ("A", "B", "row", "column"),
}


def _factors(context: NodeContext, index: int, name: str) -> str:
    if name in {"A", "B"}:
        return "*b m k" if name == "A" else "*b k n"
    shape = context.shape(index) or ()
    if all(size == 1 for size in shape):
        return "*one"
    if len(shape) == 1:
        return "m" if name == "row" else "n"
    return "*b m one" if name == "row" else "*b one n"


@rule("quantised_concat", typed=None)
def quantised_concat(context: NodeContext) -> tuple[Axes | None, ...]:
    """QLinearConcat: (tensor, scale, zero point) for each part, after the output's scale and zero point."""
    parts = range(2, len(context.node.inputs), 3)
    for index in range(len(context.node.inputs)):
        if index not in parts:
            context.fix(context.operand(index) or (), "an operand that is read as a whole")
    factors = [context.shape(index) or () for index in range(len(context.node.inputs)) if index not in parts]
    if any(size > 1 for shape in factors for size in shape):
        return context.freeze("a quantised concatenation with scales along an axis")
    return concat_axes(context, [context.operand(index) for index in parts], [context.shape(index) for index in parts])
