"""Quantised operators: scales and zero points are per tensor, along an axis, or in blocks of one."""

from __future__ import annotations

from onnxmerge.axes.rules.contraction import apply_patterns
from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.rules.segments import concat_axes
from onnxmerge.axes.signature import Axes
from onnxmerge.axes.site import Site


@rule("quantise", typed=None)
def quantise(site: Site) -> tuple[Axes | None, ...]:
    """QuantizeLinear, DequantizeLinear: scale and zero point follow the axis that they belong to."""
    shape, scale = site.shape(0), site.shape(1)
    if shape is None or scale is None:
        return site.freeze("a quantisation of unknown shape")
    letters = [f"a{index}" for index in range(len(shape))]
    whole = " ".join(letters)
    count = len(site.node.inputs) - 1
    axis = site.axis(len(shape), 1)
    if all(size == 1 for size in scale):
        factors = "*one"
    elif len(scale) == 1 and scale[0] == shape[axis]:
        factors = letters[axis]
    elif len(scale) == len(shape) and shape[axis] % scale[axis] == 0:
        factors = whole
        whole = " ".join(f"({a} w)" if index == axis else a for index, a in enumerate(letters))
    else:
        return site.freeze(f"scales of shape {list(scale)} for a tensor of shape {list(shape)}")
    return apply_patterns(site, [whole, *[factors] * count], [whole])


@rule("dynamic_quantise")
def dynamic_quantise(site: Site) -> tuple[Axes | None, ...]:
    """DynamicQuantizeLinear: the scale is a maximum over everything, in which no unit counts more than another."""
    axes = site.operand(0)
    return (axes, (), ()) if axes is not None else site.freeze("a quantisation of unknown shape")


@rule("quantised_matmul", typed=None)
def quantised_matmul(site: Site) -> tuple[Axes | None, ...]:
    """QLinearMatMul and MatMulInteger: zero points and scales per row of A, per column of B, or one."""
    names = _MATMULS[site.node.op_type]
    ranks = [len(site.shape(index) or ()) for index in (names.index("A"), names.index("B"))]
    if min(ranks) < 2:
        return site.freeze("a quantised product with a vector")
    inputs = [_factors(site, index, name) for index, name in enumerate(names)]
    return apply_patterns(site, inputs[: len(site.node.inputs)], ["*b m n"])


_MATMULS = {
    "QLinearMatMul": ("A", "row", "row", "B", "column", "column", "row", "row"),
    "MatMulInteger": ("A", "B", "row", "column"),
}


def _factors(site: Site, index: int, name: str) -> str:
    if name in {"A", "B"}:
        return "*b m k" if name == "A" else "*b k n"
    shape = site.shape(index) or ()
    if all(size == 1 for size in shape):
        return "*one"
    if len(shape) == 1:
        return "m" if name == "row" else "n"
    return "*b m one" if name == "row" else "*b one n"


@rule("quantised_concat", typed=None)
def quantised_concat(site: Site) -> tuple[Axes | None, ...]:
    """QLinearConcat: (tensor, scale, zero point) for each part, after the output's scale and zero point."""
    parts = range(2, len(site.node.inputs), 3)
    for index in range(len(site.node.inputs)):
        if index not in parts:
            site.fix(site.operand(index) or (), "an operand that is read as a whole")
    factors = [site.shape(index) or () for index in range(len(site.node.inputs)) if index not in parts]
    if any(size > 1 for shape in factors for size in shape):
        return site.freeze("a quantised concatenation with scales along an axis")
    return concat_axes(site, [site.operand(index) for index in parts], [site.shape(index) for index in parts])
