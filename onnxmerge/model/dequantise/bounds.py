"""What rounds an activation bounds it too, and quantisers leave out the Relu or Relu6 in front that does no more.

Where the least code stands for 0, the Relu is put back; where the greatest stands for 6 as well, a Clip at both. Bounds
that only come of the calibration data go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnxmerge.model.bounded import CLIPPED, is_bounded
from onnxmerge.model.codes import limits
from onnxmerge.model.dequantise.float_graph import FloatGraph
from onnxmerge.model.dequantise.operands import array_of, tensor_of

CLIP_READS = 11
"""From this opset on Clip reads its ends."""
CLOSE = 1e-3
"""Relative difference of an end from CLIPPED where it is meant to be that."""


class Bound(NamedTuple):
    """Whether the least code of an activation stands for 0, and its greatest for CLIPPED."""

    low: bool
    high: bool


Bounds = Mapping[str, Bound]
"""By float activation and scale (``bound_key``)."""


def bound_key(value: ir.Value, scale: ir.Value) -> str:
    """What a bound is known under in several networks."""
    return f"{value.name}/{scale.name}"


def bound_of(scale: ir.Value, zero: ir.Value | None, dtype: np.dtype[np.generic]) -> Bound:
    """The bound of an activation that is rounded by a scale and a zero point to codes of a type."""
    (least, most), offset = limits(dtype), 0 if zero is None else int(array_of(zero).reshape(-1)[0])
    end = (most - offset) * float(array_of(scale).reshape(-1)[0])
    return Bound(offset == least, offset == least and abs(end - CLIPPED) < CLOSE * CLIPPED)


def joint(networks: Sequence[Bounds]) -> dict[str, Bound]:
    """The bounds of several networks: 0 where it is one in all that name it, 6 where it is then one in any."""
    found = {}
    for name in dict.fromkeys(name for bounds in networks for name in bounds):
        own = [bounds[name] for bounds in networks if name in bounds]
        low = all(bound.low for bound in own)
        found[name] = Bound(low, low and any(bound.high for bound in own))
    return found


def put_back(graph: FloatGraph, node: ir.Node, value: ir.Value, scale: ir.Value, bound: Bound) -> ir.Value:
    """A value with its bound, by a Relu or a Clip behind ``node``; itself where they would do nothing.

    ``scale`` has the type that the operator computes in.
    """
    if not bound.low or is_bounded(value, high=bound.high):
        return value
    dtype = tensor_of(scale).dtype
    ends = {"min": 0.0, "max": CLIPPED} if bound.high else {}
    operands, attributes = [value], dict[str, float]()
    if graph.opset < CLIP_READS:
        attributes = ends
    else:
        for word, end in ends.items():
            operands.append(graph.initializer(f"{value.name}/{word}", np.array(end, dtype.numpy())))
    name = graph.names.fresh(f"{node.name}/bounded")
    new = ir.node("Clip" if bound.high else "Relu", operands, attributes, name=name)
    new.outputs[0].name = graph.names.fresh(f"{value.name}/bounded")
    new.outputs[0].type, new.outputs[0].shape = ir.TensorType(dtype), value.shape
    graph.insert_after(node, new)
    return new.outputs[0]
