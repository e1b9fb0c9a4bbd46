"""The graph of a network whose groups have another width: initializers of the new shapes, and what it says of sizes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.session import lazy
from onnxmerge.resizing.sizes import SizesInGraph
from onnxmerge.units.layout import Typing
from onnxmerge.units.resize import Widths, resized_axes, resized_layout


def resized_network(models: ModelSet, typing: Typing, widths: Widths) -> Network:
    """The template with the initializers of resized groups in their new shapes, for other weights to fill.

    Targets of Reshape and Expand, parts of Split and bounds of Slice that name an old size name the new one, attributes
    that count heads or groups of channels count them anew, and what is the same number for every unit (the scale of a
    norm without one) is so for as many as there are now. Nothing else in the graph is adapted: whether it holds for
    other sizes is for ``proof`` to find out.
    """
    template = models.template
    model = template.model.clone()
    for name, value in model.graph.initializers.items():
        layout = typing.initializers.get(name)
        if layout is not None and value.const_value is not None and resized_axes(layout, widths):
            _reshape(value, value.const_value, resized_layout(layout, widths).shape)
    weighted = {name for layout in typing.initializers.values() for block in layout.blocks for name in block.spaces}
    changes = SizesInGraph(model.graph, models, typing, widths, frozenset(weighted))
    for node in list(model.graph):
        for value in node.outputs:
            if changes.axes(value):
                value.shape = None
        changes.adapt(node)
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
