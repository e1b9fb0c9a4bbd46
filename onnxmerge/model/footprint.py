"""What a network costs: its parameters, and the arithmetic of one sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from onnxmerge.model.network import Network
from onnxmerge.model.quantised import is_quantised_weight
from onnxmerge.model.signature import STANDARD

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Footprint:
    """``parameters`` counts learned numbers, ``flops`` the additions and multiplications of one sample.

    ``flops`` covers convolutions and matrix products, two for each multiply-add; the rest is small beside them.
    """

    parameters: int
    flops: int


def footprint(network: Network, shapes: Mapping[str, Shape], batch: int = 1) -> Footprint:
    """The footprint of a network whose tensors, initializers among them, have ``shapes`` for ``batch`` samples."""
    operations = sum(_operations(node, shapes) for node in network.graph)
    return Footprint(parameters(network, shapes), round(operations / batch))


def parameters(network: Network, shapes: Mapping[str, Shape] | None = None) -> int:
    """How many numbers of a network are learned: all floats, and the integers of quantised weights.

    Initializers that ``shapes`` knows are taken to have these.
    """
    known = shapes or {}
    return sum(
        prod(known[name]) if name in known else value.const_value.size
        for name, value in network.graph.initializers.items()
        if value.const_value is not None and (value.const_value.dtype.is_floating_point() or is_quantised_weight(value))
    )


def _operations(node: ir.Node, shapes: Mapping[str, Shape]) -> int:
    rule = _MULTIPLY_ADDS.get(node.op_type) if node.domain in STANDARD else None
    names = [*(value.name for value in node.inputs[:2] if value is not None), node.outputs[0].name]
    if rule is None or len(names) < 3 or any(name not in shapes for name in names):
        return 0
    left, right, result = (shapes[str(name)] for name in names)
    return 2 * rule(left, right, result, node)


def _conv(_x: Shape, weight: Shape, result: Shape, _node: ir.Node) -> int:
    """Each output is a sum over a filter: [out, in / group, *kernel]."""
    return prod(result) * prod(weight[1:])


def _transposed(x: Shape, weight: Shape, _result: Shape, _node: ir.Node) -> int:
    """Each input is spread by a filter: [in, out / group, *kernel]."""
    return prod(x) * prod(weight[1:])


def _gemm(a: Shape, _b: Shape, result: Shape, node: ir.Node) -> int:
    return prod(result) * a[0 if node.attributes.get_int("transA", 0) else 1]


def _matmul(a: Shape, _b: Shape, result: Shape, _node: ir.Node) -> int:
    return prod(result) * a[-1]


_MULTIPLY_ADDS: Mapping[str, Callable[[Shape, Shape, Shape, ir.Node], int]] = {
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
