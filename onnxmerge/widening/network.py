"""The graph of a widened network: initializers of the new shapes, and what the graph says of sizes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmerge.axes.layout import TensorLayout, Typing
from onnxmerge.model.network import Network
from onnxmerge.model.session import lazy
from onnxmerge.widening.layout import Budgets, widened_axes


def wide_network(template: Network, typing: Typing, budgets: Budgets) -> Network:
    """The template with the initializers of widened groups in their new shapes, for other weights to fill.

    Targets of Reshape that name an old size name the new one. Nothing else in the graph is adapted: whether it holds
    for other sizes is for ``proof`` to find out.
    """
    model = template.model.clone()
    for name, value in model.graph.initializers.items():
        layout = typing.initializers.get(name)
        if layout is not None and value.const_value is not None and widened_axes(layout, budgets):
            _reshape(value, value.const_value, wide_shape(layout, budgets))
    for node in model.graph:
        for value in node.outputs:
            layout = typing.activations.get(str(value.name))
            if layout is None or not widened_axes(layout, budgets):
                continue
            value.shape = None
            if node.op_type == "Reshape":
                _retarget(model.graph, node, layout, budgets)
    return Network(template.path, model, template.sha256)


def wide_shape(layout: TensorLayout, budgets: Budgets) -> tuple[int, ...]:
    """The shape of a tensor with its groups at their new widths."""
    axes = widened_axes(layout, budgets)
    return tuple(budgets[axes[axis]].width if axis in axes else size for axis, size in enumerate(layout.shape))


def _reshape(value: ir.Value, tensor: ir.TensorProtocol, shape: tuple[int, ...]) -> None:
    dtype = tensor.dtype.numpy()
    name = str(value.name)
    blank = ir.LazyTensor(
        lambda: ir.Tensor(np.zeros(shape, dtype), dtype=tensor.dtype, name=name),
        tensor.dtype,
        ir.Shape(shape),
        name=name,
    )
    value.const_value = lazy(blank, name, None, name)
    value.shape = ir.Shape(shape)


def _retarget(graph: ir.Graph, node: ir.Node, layout: TensorLayout, budgets: Budgets) -> None:
    """Write the new sizes into a constant target of the result's rank."""
    target = node.inputs[1]
    if target is None or not target.is_initializer() or target.const_value is None:
        return
    sizes = target.const_value.numpy().copy()
    axes = widened_axes(layout, budgets)
    if sizes.shape != (len(layout.shape),) or all(sizes[axis] in (0, -1) for axis in axes):
        return
    for axis, space in axes.items():
        if sizes[axis] not in (0, -1):
            sizes[axis] = budgets[space].width
    name = f"{target.name}/{node.name}"
    fresh = ir.val(name, const_value=ir.Tensor(sizes, name=name))
    graph.register_initializer(fresh)
    node.replace_input_with(1, fresh)
