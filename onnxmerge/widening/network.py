"""The graph of a network whose groups have another width: initializers of the new shapes, and what it says of sizes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmerge.axes.layout import TensorLayout, Typing
from onnxmerge.axes.resize import Widths, axes_of, resized_layout
from onnxmerge.model.network import Network
from onnxmerge.model.session import lazy


def resized_network(template: Network, typing: Typing, widths: Widths) -> Network:
    """The template with the initializers of resized groups in their new shapes, for other weights to fill.

    Targets of Reshape that name an old size name the new one, and a convolution of one filter for each channel has as
    many groups as there are channels now. Nothing else in the graph is adapted: whether it holds for other sizes is
    for ``proof`` to find out.
    """
    model = template.model.clone()
    for name, value in model.graph.initializers.items():
        layout = typing.initializers.get(name)
        if layout is not None and value.const_value is not None and axes_of(layout, widths):
            _reshape(value, value.const_value, resized_layout(layout, widths).shape)
    for node in model.graph:
        for value in node.outputs:
            layout = typing.activations.get(str(value.name))
            if layout is None or not axes_of(layout, widths):
                continue
            value.shape = None
            if node.op_type == "Reshape":
                _retarget(model.graph, node, layout, widths)
            elif node.op_type in ("Conv", "ConvTranspose"):
                _regroup(node, layout, widths)
    return Network(template.path, model, template.sha256)


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


def _retarget(graph: ir.Graph, node: ir.Node, layout: TensorLayout, widths: Widths) -> None:
    """Write the new sizes into a constant target of the result's rank."""
    target = node.inputs[1]
    if target is None or not target.is_initializer() or target.const_value is None:
        return
    sizes = target.const_value.numpy().copy()
    axes = axes_of(layout, widths)
    if sizes.shape != (len(layout.shape),) or all(sizes[axis] in (0, -1) for axis in axes):
        return
    for axis, space in axes.items():
        if sizes[axis] not in (0, -1):
            sizes[axis] = widths[space]
    name = f"{target.name}/{node.name}"
    fresh = ir.val(name, const_value=ir.Tensor(sizes, name=name))
    graph.register_initializer(fresh)
    node.replace_input_with(1, fresh)


def _regroup(node: ir.Node, layout: TensorLayout, widths: Widths) -> None:
    """Give a depthwise convolution as many groups as it has channels."""
    space = axes_of(layout, widths).get(1)
    groups = node.attributes.get("group")
    if space is not None and groups is not None and groups.as_int() == layout.shape[1]:
        node.attributes["group"] = ir.AttrInt64("group", widths[space])
