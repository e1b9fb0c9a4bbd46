"""The linear layers of a graph, and how to rescale and shift their output units by their own weights.

A layer is a Conv, ConvTranspose, Gemm or MatMul that reads its weight from an initializer, perhaps through Identity
and Transpose, with its bias: the operator's own, or the Add of a vector that follows. Its *output* is the tensor
after the bias, so before the nonlinearity and before a residual Add. A vector with infinities masks units and is no
bias: what is added it to has no statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.model.network import Weights
from onnxmerge.model.traits import has


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """One linear layer. ``weight`` and ``bias`` are initializers, ``output`` the tensor after the bias.

    The weight's output units lie along ``unit_axis``, in ``unit_groups`` equal runs: the runs are counted on the
    weight's first axis (a ConvTranspose of g groups holds each group's outputs beside that group's inputs); else 1.
    ``bias_scale`` is what the operator multiplies the bias with (Gemm's beta). ``channel_axis`` is the axis of the
    output tensor, from the front (1) or the back (-1).
    """

    node: str
    weight: str
    bias: str | None
    output: str
    channel_axis: int
    units: int
    unit_axis: int
    unit_groups: int = 1
    bias_scale: float = 1.0

    def scale_weight(self, weight: NDArray[Any], factors: NDArray[np.float64]) -> NDArray[Any]:
        """The weight with each output unit's part multiplied by that unit's factor [units]; same type."""
        shape = [1] * weight.ndim
        shape[self.unit_axis] = self.units // self.unit_groups
        if self.unit_groups == 1:
            scaled = weight.astype(np.float64) * factors.reshape(shape)
        else:
            grouped = weight.astype(np.float64).reshape(self.unit_groups, -1, *weight.shape[1:])
            scaled = (grouped * factors.reshape(self.unit_groups, *shape)).reshape(weight.shape)
        return scaled.astype(weight.dtype)

    def unit_lengths(self, weight: NDArray[Any]) -> NDArray[np.float64]:
        """The Euclidean length of each output unit's part of the weight, float64 [units]."""
        squares = np.square(weight.astype(np.float64))
        grouped = squares.reshape(self.unit_groups, -1, *weight.shape[1:]) if self.unit_groups > 1 else squares[None]
        others = tuple(axis for axis in range(1, grouped.ndim) if axis != self.unit_axis + 1)
        return np.asarray(np.sqrt(grouped.sum(axis=others)).reshape(-1))

    def move_bias(
        self, bias: NDArray[Any], factors: NDArray[np.float64], mean: NDArray[np.float64], target: NDArray[np.float64]
    ) -> NDArray[Any]:
        """The bias for which an output of mean ``mean``, its weight scaled by ``factors``, gets the mean ``target``."""
        effective = self.bias_scale * bias.astype(np.float64).reshape(-1)
        moved = (effective - mean) * factors + target
        return (moved / self.bias_scale).reshape(bias.shape).astype(bias.dtype)


def linear_layers(graph: ir.Graph) -> tuple[list[LinearLayer], list[str]]:
    """All layers in topological order, and a note for each that shares its weight or bias, so cannot be rescaled."""
    counts = readers(graph)
    layers, notes = [], []
    for node in graph:
        layer = _layer(node) if has(node, "linear_layer") else None
        if layer is None:
            continue
        shared = [name for name in (layer.weight, layer.bias) if name is not None and counts[name] > 1]
        if shared:
            notes.append(f"{layer.node}: initializer {shared[0]} is read by several nodes, so it is left as it is")
        else:
            layers.append(layer)
    return layers, notes


def initializer_of(value: ir.Value | None) -> ir.Value | None:
    """The initializer behind ``value``, through Identity; None if there is none."""
    while value is not None and not value.is_initializer():
        producer = value.producer()
        if producer is None or producer.op_type != "Identity":
            return None
        value = producer.inputs[0]
    return value


def readers(graph: ir.Graph) -> dict[str, int]:
    """How many nodes read each initializer; Identity and Transpose pass their readers on."""
    counts: dict[str, int] = {}
    for value in graph.initializers.values():
        stack, count = [value], 0
        while stack:
            current = stack.pop()
            count += current.is_graph_output()
            for user, _ in current.uses():
                if user.op_type in ("Identity", "Transpose"):
                    stack.extend(user.outputs)
                else:
                    count += 1
        counts[str(value.name)] = count
    return counts


def _layer(node: ir.Node) -> LinearLayer | None:
    operand = node.inputs[1] if len(node.inputs) > 1 else None
    found = _weight(operand)
    if found is None:
        return None
    weight, axes = found
    rank = len(axes)
    if node.op_type == "Conv":
        unit, groups = 0, 1
    elif node.op_type == "ConvTranspose":
        unit, groups = 1, integer(node, "group", 1)
    elif rank == 2:
        unit, groups = (0 if node.op_type == "Gemm" and integer(node, "transB", 0) else 1), 1
    else:
        return None  # one matrix for each batch index: its units are not those of the last axis alone
    if groups > 1 and axes != tuple(range(rank)):
        return None
    if node.op_type != "MatMul" and len(node.inputs) > 2 and not _is_finite(initializer_of(node.inputs[2])):
        return None
    units = weight.shape.numpy()[axes[unit]] * groups if weight.shape is not None else 0
    output, bias, scale = _bias(node, units)
    return LinearLayer(
        node=str(node.name),
        weight=str(weight.name),
        bias=bias,
        output=str(output.name),
        channel_axis=1 if node.op_type in ("Conv", "ConvTranspose") else -1,
        units=units,
        unit_axis=axes[unit],
        unit_groups=groups,
        bias_scale=scale,
    )


def _weight(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """The float initializer behind ``value`` and, for each axis of ``value``, the initializer's axis it comes from."""
    path = []
    while value is not None and not value.is_initializer():
        producer = value.producer()
        if producer is None or producer.op_type not in ("Identity", "Transpose"):
            return None
        path.append(producer)
        value = producer.inputs[0]
    if value is None or value.shape is None or value.dtype is None or not value.dtype.is_floating_point():
        return None
    axes = tuple(range(len(value.shape)))
    for producer in reversed(path):
        if producer.op_type == "Transpose":
            perm = producer.attributes.get("perm")
            order = tuple(perm.as_ints()) if perm is not None else tuple(reversed(range(len(axes))))
            axes = tuple(axes[index] for index in order)
    return value, axes


def _bias(node: ir.Node, units: int) -> tuple[ir.Value, str | None, float]:
    """The layer's output tensor, its bias if it has one for each unit, and the bias' factor."""
    output = node.outputs[0]
    if node.op_type != "MatMul":
        value = initializer_of(node.inputs[2]) if len(node.inputs) > 2 else None
        beta = _float(node, "beta", 1.0) if node.op_type == "Gemm" else 1.0
        own = len(node.inputs) > 2 and node.inputs[2] is not None
        if own:
            fits = value is not None and beta != 0 and _is_vector(value, units, 0)
            return output, (str(value.name) if fits and value is not None else None), beta
    added = _added_vector(output, units, trailing=0 if node.op_type in ("MatMul", "Gemm") else _trailing(node))
    return (output, None, 1.0) if added is None else (added[0], added[1], 1.0)


def _added_vector(output: ir.Value, units: int, trailing: int) -> tuple[ir.Value, str] | None:
    """The Add of a vector over the units, if it is the only reader of ``output``: its result and the vector."""
    uses = list(output.uses())
    if len(uses) != 1 or output.is_graph_output() or uses[0][0].op_type != "Add":
        return None
    add, index = uses[0]
    vector = initializer_of(add.inputs[1 - index])
    if vector is None or not _is_vector(vector, units, trailing) or not _is_finite(vector):
        return None
    return add.outputs[0], str(vector.name)


def _is_vector(value: ir.Value, units: int, trailing: int) -> bool:
    """Whether an initializer has one value for each unit, its axis followed by ``trailing`` axes of length 1."""
    shape = list(value.shape) if value.shape is not None else []
    sizes = shape[: len(shape) - trailing]
    return sizes[-1:] == [units] and all(size == 1 for size in [*sizes[:-1], *shape[len(sizes) :]])


def _is_finite(value: ir.Value | None) -> bool:
    """Whether an initializer, if it is one, holds finite numbers alone."""
    if value is None or value.const_value is None:
        return True
    array = Weights({"bias": value.const_value})["bias"]
    return bool(np.isfinite(array).all())


def _trailing(node: ir.Node) -> int:
    """The number of spatial axes of a convolution."""
    weight = node.inputs[1]
    return len(weight.shape) - 2 if weight is not None and weight.shape is not None else 0


def integer(node: ir.Node, name: str, default: int) -> int:
    """An attribute of one whole number, or its default where it is left out."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _float(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()
