"""What all parents compute alike: the part of a network that the average of the matched parents computes as they do.

Where matched parents have equal weights, averaging takes nothing, and there is nothing to give back. So what restores
statistics or solves layers anew leaves alone every tensor that is computed of such weights and of the inputs alone:
what is measured comes from finitely many samples in float32, and "the same" would come out as "nearly the same". A
model merged with itself, its units in whatever order, is itself again by construction, and so is a trunk that was
frozen while the models were fine-tuned. A zip adds units up and divides, which may leave a rounding, or take the sign
of a zero: equal is what is equal but for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.model.arrays import identical, is_floating, pieces
from onnxmerge.model.signature import operands, subgraphs
from onnxmerge.types import Arrays

ROUNDINGS = 2
"""By how many times the relative precision of its type an element may differ and be called equal."""


TINY = float(np.finfo(np.float32).tiny)


def computed_alike(graph: ir.Graph, average: Arrays, first: Arrays) -> frozenset[str]:
    """The tensors of ``graph`` that the first parent computes too: of its inputs and of equal weights.

    ``average`` has the units of the first parent in its order. Weights are read only as far as their readers' other
    operands agree, so parents that differ cost little.
    """
    weights: dict[str, bool] = {}
    found = {str(value.name) for value in graph.inputs if value.name not in graph.initializers}

    def same(value: ir.Value) -> bool:
        name = str(value.name)
        if not value.is_initializer() or name not in average:
            return value.is_initializer() or value.const_value is not None or name in found
        if name not in weights:
            weights[name] = name in first and equal(average[name], first[name])
        return weights[name]

    for node in graph:
        read = set(operands(node)).difference(_made_inside(node))
        if all(map(same, sorted(read, key=ir.Value.is_initializer))):  # what was computed first: it costs nothing
            found.update(str(value.name) for value in node.outputs)
    return frozenset(found)


def equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two tensors are equal but for what rounding leaves: floats to ``ROUNDINGS``, all else bit by bit.

    Numbers too small for float32 to hold in full precision (below 1e-38) are all zero.
    """
    if identical(one, other):
        return True
    if one.dtype != other.dtype or one.shape != other.shape or not is_floating(one.dtype) or one.dtype.kind == "c":
        return False
    precision = ROUNDINGS * float(np.spacing(np.ones((), one.dtype)))
    wide = np.result_type(one.dtype, np.float32) if one.dtype.kind == "f" else np.dtype(np.float32)
    ours, theirs = one.reshape(-1), other.reshape(-1)

    def near(piece: slice) -> bool:
        left, right = ours[piece].astype(wide, copy=False), theirs[piece].astype(wide, copy=False)
        with np.errstate(invalid="ignore"):
            close = np.abs(left - right) <= np.maximum(precision * np.minimum(np.abs(left), np.abs(right)), TINY)
        return bool(np.all((left == right) | (close & np.isfinite(left) & np.isfinite(right))))

    return all(map(near, pieces(ours.size)))


def _made_inside(node: ir.Node) -> Iterator[ir.Value]:
    """The values that a node's subgraphs, at any depth, make for themselves."""
    for _, graph in subgraphs(node):
        yield from (*graph.inputs, *graph.initializers.values())
        for inner in graph:
            yield from inner.outputs
            yield from _made_inside(inner)
