"""Compile statistics into the graph: models side by side on the same inputs, ending in sums and Gram products.

Activations stay where they are computed: a run hands back per-unit means and [units, units] products alone. The
instrumented graph is run and thrown away, never shipped, so what onnx-graphsurgeon's round trip loses does no harm.
Weights do not pass through it: they are bound to the finished graph, memory-mapped if they were.

A batch is centred by its own mean before the products, because in float32 the difference E[xy] - E[x]E[y] cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_graphsurgeon.logger import G_LOGGER

from onnxmerge.activations.builder import Builder
from onnxmerge.activations.matrix import Matrix, centred
from onnxmerge.activations.views import UnitProduct, View, product_output
from onnxmerge.model.network import SOURCE, label
from onnxmerge.model.opset import make_measurable


def instrument(
    template: ir.Model,
    weights: Sequence[Mapping[str, NDArray[Any]]],
    views: Sequence[View],
    products: Sequence[UnitProduct],
) -> ir.Model:
    """One model that runs every set of ``weights`` on the template's inputs and returns the statistics alone.

    Nodes that no view needs are left out. The outputs are named by the functions of ``views``; the inputs are
    the template's and its `POSITION_BUDGET`.
    """
    skeleton, initializers = _skeleton(template)
    with G_LOGGER.suppress():  # it would print to standard output
        graphs = [gs.import_onnx(skeleton) for _ in weights]
        whole = graphs[0]
        shared = {tensor.name: tensor for tensor in whole.inputs}
        tensors = [_prefix(graph, f"model{index}/", shared) for index, graph in enumerate(graphs)]
        for other in graphs[1:]:
            whole.nodes.extend(other.nodes)
        whole.outputs = []
        _add_statistics(Builder(whole), views, products, tensors)
        whole.cleanup(remove_unused_graph_inputs=False).toposort()
        proto = gs.export_onnx(whole, do_type_check=False)
    return _bind(proto, initializers, weights, label(template))


def _add_statistics(
    builder: Builder, views: Sequence[View], products: Sequence[UnitProduct], tensors: Sequence[Mapping[str, Any]]
) -> None:
    """Add the outputs; ``tensors[m]`` are those of model m by the template's names."""
    matrices = [[centred(builder, v, view, m, own) for m, own in enumerate(tensors)] for v, view in enumerate(views)]
    for product in products:
        i, j = product.pair
        terms = [_product(builder, matrices[v][i], matrices[v][j]) for v in product.views]
        builder.output(builder.total(terms), product_output(product), np.float32)


def _product(builder: Builder, left: Matrix, right: Matrix) -> Any:
    return builder.product(left.tensor, right.tensor, units_first=left.units_first)


def _skeleton(template: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """The template as a proto without its main graph's initializers, and those initializers."""
    model = template.clone()
    make_measurable(model)
    initializers: dict[str, ir.TensorProtocol] = {}
    for name, value in list(model.graph.initializers.items()):
        if value.const_value is not None:
            initializers[name] = value.const_value
            model.graph.initializers.pop(name)
    model.graph.inputs[:] = [value for value in model.graph.inputs if value.name not in initializers]
    return ir.to_proto(model), initializers


def _prefix(graph: Any, prefix: str, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Prefix every tensor but the graph's inputs, in subgraphs too, and read the inputs from the ``shared`` tensors.

    Returns the main graph's tensors by their former names.
    """
    found: dict[str, Any] = dict(shared)
    seen: set[int] = set()
    pending = [graph]
    while pending:
        scope = pending.pop()
        for node in scope.nodes:
            node.name = prefix + node.name if node.name else ""
            pending.extend(value for value in node.attrs.values() if isinstance(value, gs.Graph))
            for place, tensor in enumerate(node.inputs):
                if tensor.name in shared:
                    node.inputs[place] = shared[tensor.name]
        tensors = [*scope.inputs, *scope.outputs, *(t for node in scope.nodes for t in (*node.inputs, *node.outputs))]
        for tensor in tensors:
            if tensor.name and tensor.name not in shared and id(tensor) not in seen:
                seen.add(id(tensor))
                if scope is graph:
                    found[tensor.name] = tensor
                tensor.name = prefix + tensor.name
    return found


def _bind(
    proto: onnx.ModelProto,
    initializers: Mapping[str, ir.TensorProtocol],
    weights: Sequence[Mapping[str, NDArray[Any]]],
    where: str,
) -> ir.Model:
    """Give the exported graph the weights that its nodes use."""
    used = set(_names_used(proto.graph))
    bound: dict[str, ir.TensorProtocol] = {}
    for index, own in enumerate(weights):
        for name, original in initializers.items():
            prefixed = f"model{index}/{name}"
            if prefixed in used:
                bound[prefixed] = ir.tensor(own[name], name=prefixed) if name in own else original
    for prefixed, tensor in bound.items():
        # Declared as inputs for a moment, so that reading the proto back finds every name defined.
        proto.graph.input.append(onnx.helper.make_tensor_value_info(prefixed, int(tensor.dtype), tensor.shape.numpy()))
    model = ir.from_proto(proto)
    model.graph.meta[SOURCE] = f"{where} (with statistics)"
    for value in list(model.graph.inputs):
        if value.name in bound:
            model.graph.inputs.remove(value)
            value.const_value = bound[value.name]
            model.graph.register_initializer(value)
    return model


def _names_used(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _names_used(subgraph)
