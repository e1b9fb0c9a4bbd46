"""Initializers as the matrices that they multiply activations by, [out, in] however they are stored.

A Gemm may hold its weight transposed, a MatMul may read it on either side and through a Transpose, a convolution is a
matrix [out, in x taps], a recurrent layer holds one for each direction. An initializer whose readers disagree (a table
that an output layer reads too), or that anything else reads, is no matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxmerge.types import Array, Floats

CONVOLUTIONS = frozenset({"Conv", "FusedConv", "NhwcConv", "NhwcFusedConv"})
RECURRENT = frozenset({"RNN", "GRU", "LSTM"})


@dataclass(frozen=True, slots=True)
class MatrixLayout:
    """Which axes of an initializer count matrices (``stack``), their rows (``out``) and their columns (``into``).

    ``split`` is (axis, groups) where an axis holds the channels of several groups one after another: a matrix each.
    """

    stack: tuple[int, ...]
    out: tuple[int, ...]
    into: tuple[int, ...]
    split: tuple[int, int] | None = None

    def matrix(self, array: Array, index: int) -> Array:
        """One of the matrices in an initializer [out, in]: a view where it lies so in memory."""
        opened, (_, out, into) = self._open(array), self.sizes(array.shape)
        counted = opened.ndim - len(self.out) - len(self.into)
        return np.asarray(opened[np.unravel_index(index, opened.shape[:counted])]).reshape(out, into)

    def restored(self, matrices: Floats, shape: tuple[int, ...]) -> Floats:
        """All matrices [matrices, out, in] as an array of the initializer's ``shape``."""
        like = np.empty(shape, dtype=np.bool_)
        opened = self._open(like)
        found = np.empty(shape, dtype=matrices.dtype)
        self._open(found)[...] = matrices.reshape(opened.shape)
        return found

    def _open(self, array: Array) -> Array:
        """A view with the axes in the order stack, out, in."""
        order = (*self.stack, *self.out, *self.into)
        if self.split is None:
            return array.transpose(order)
        axis, groups = self.split
        parted = array.reshape(*array.shape[:axis], groups, -1, *array.shape[axis + 1 :])
        return parted.transpose([axis, *(each + (each >= axis) for each in order)])

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """How many matrices an initializer of such a shape holds, and the rows and columns of each."""
        stack, out, into = (math.prod(shape[axis] for axis in axes) for axes in (self.stack, self.out, self.into))
        if self.split is None:
            return stack, out, into
        axis, groups = self.split
        return stack * groups, out // (groups if axis in self.out else 1), into // (groups if axis in self.into else 1)


def matrix_layouts(graph: ir.Graph) -> Mapping[str, MatrixLayout]:
    """Those initializers that are matrices for all of their readers, by name."""
    found = {}
    for name, value in graph.initializers.items():
        if value.shape is None or len(value.shape) < 2 or value.is_graph_output():
            continue
        readings = set(_readings(value, tuple(range(len(value.shape)))))
        if len(readings) == 1 and (only := readings.pop()) is not None:
            found[str(name)] = only
    return found


def layer_depths(graph: ir.Graph) -> Mapping[str, float]:
    """How deep each initializer is read first, from 0 (by the first layer that is a matrix) to 1 (by the last)."""
    layouts, places, layers = matrix_layouts(graph), dict[str, int](), -1
    for node in graph:
        for value in node.inputs:
            name = None if value is None else str(value.name)
            if value is not None and value.is_initializer() and name is not None and name not in places:
                layers += name in layouts
                places[name] = max(layers, 0)
    return {name: place / max(layers, 1) for name, place in places.items()}


def _readings(value: ir.Value, axes: tuple[int, ...]) -> Iterator[MatrixLayout | None]:
    """How each reader takes an initializer, whose axes those of ``value`` are."""
    for node, index in value.uses():
        if node.domain not in ("", "ai.onnx", "com.microsoft"):
            yield None
        elif node.op_type == "Identity":
            yield from _readings(node.outputs[0], axes)
        elif node.op_type == "Transpose":
            order = node.attributes.get_ints("perm", list(range(len(axes) - 1, -1, -1)))
            yield from _readings(node.outputs[0], tuple(axes[each] for each in order))
        else:
            yield _reading(node, index, axes)


def _reading(node: ir.Node, index: int, axes: tuple[int, ...]) -> MatrixLayout | None:
    """How a node takes the operand ``index``; None for what is no product with a matrix."""
    rank, kind = len(axes), node.op_type
    if kind in CONVOLUTIONS | {"ConvTranspose"} and index == 1 and rank > 2:
        groups, weight = node.attributes.get_int("group", 1), node.inputs[1]
        transposed = kind == "ConvTranspose"
        each = None if weight is None or weight.shape is None else weight.shape.numpy()[0 if transposed else 1]
        if groups > 1 and each == (groups if transposed else 1):
            # Depthwise: filters over the same taps, a row each. Other groups have channels of their own.
            return MatrixLayout((), axes[:2], axes[2:]) if transposed else MatrixLayout((), axes[:1], axes[1:])
        split = (axes[0], groups) if groups > 1 else None
        if transposed:
            return MatrixLayout((), axes[1:2], (axes[0], *axes[2:]), split)
        return MatrixLayout((), axes[:1], axes[1:], split)
    if kind in RECURRENT and index in (1, 2) and rank == 3:
        return MatrixLayout(axes[:1], axes[1:2], axes[2:])
    if kind in ("Gemm", "MatMul", "FusedMatMul") and index in (0, 1):
        turned = bool(node.attributes.get_int("transB" if index else "transA", 0))
        if node.attributes.get_int("transBatchA", 0) or node.attributes.get_int("transBatchB", 0):
            return None
        rows, columns = (axes[-1], axes[-2]) if turned else (axes[-2], axes[-1])
        # On the right a weight [in, out], on the left [out, in].
        return MatrixLayout(axes[:-2], (columns,), (rows,)) if index else MatrixLayout(axes[:-2], (rows,), (columns,))
    return None
