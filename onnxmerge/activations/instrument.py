"""Compile statistics into the graph: models side by side on the same inputs, ending in sums and Gram products.

Activations stay where they are computed: a run hands back means, variances and [units, units] products alone. What is
measured of a tensor stands right behind what makes it in the last of the models, so that it need not be kept.

A batch is centred by its own mean before the products, because in float32 the difference E[xy] - E[x]E[y] cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from onnxmerge.activations.editor import GraphEditor
from onnxmerge.activations.matrix import Matrix, centred
from onnxmerge.activations.moments import Probe, instrumented
from onnxmerge.activations.views import POSITION_BUDGET, UnitProduct, View, moments_outputs, product_output
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.network import SOURCE, label


def instrument(
    template: ir.Model,
    weights: Sequence[Mapping[str, NDArray[Any]]],
    views: Sequence[View],
    products: Sequence[UnitProduct],
    probes: Sequence[Probe] = (),
) -> tuple[ir.Model, LazyWeights]:
    """One model that runs every set of ``weights`` on the template's inputs and returns the statistics alone.

    Its outputs are named by the functions of ``views``; its inputs are the template's and its `POSITION_BUDGET`. The
    other result is its weights.
    """
    editor = GraphEditor(template)
    whole = editor.graph
    whole.outputs.clear()
    graphs = [whole, *(template.clone().graph for _ in weights[1:])]
    tensors, copies = zip(*(_moved(graph, whole, f"model{index}/") for index, graph in enumerate(graphs)), strict=True)
    editor.input(POSITION_BUDGET, ir.DataType.INT64, [1])
    matrices: dict[int, list[Matrix]] = {}
    waiting = list(products)
    for node, group in zip(template.graph, zip(*copies, strict=True), strict=True):
        whole.extend(group)
        editor.at(group[-1])
        made = {value.name for value in node.outputs}
        for index, view in enumerate(views):
            if view.tensor in made:
                matrices[index] = centred(editor, index, view, [own[view.tensor] for own in tensors])
        for probe in [each for each in probes if each.tensor in made]:
            for model, own in enumerate(tensors):
                size, _, mean, variance = instrumented(editor, own[probe.tensor], probe)
                for value, name in zip((size, mean, variance), moments_outputs(probe.tensor, model), strict=True):
                    editor.output(value, name)
        for product in [each for each in waiting if matrices.keys() >= {*each.views}]:
            waiting.remove(product)
            editor.output(_product(editor, product, matrices), product_output(product))
    passes.RemoveUnusedNodesPass()(editor.model)
    whole.meta[SOURCE] = f"{label(template)} (with statistics)"
    places = {f"model{index}/{name}": (own, name) for index, own in enumerate(weights) for name in own}
    return editor.model, LazyWeights(
        [name for name in whole.initializers if name in places], lambda name: places[name][0][places[name][1]]
    )


def _moved(graph: ir.Graph, whole: ir.Graph, prefix: str) -> tuple[dict[str, ir.Value], list[ir.Node]]:
    """The tensors of a graph by name, and its nodes, taken out of it; its initializers go to the whole."""
    nodes, initializers = list(graph), list(graph.initializers.values())
    tensors = {str(value.name): value for value in initializers}
    tensors |= {str(value.name): value for node in nodes for value in node.outputs if value.name}
    graph.outputs.clear()  # an input or an initializer may be one
    graph.remove(nodes)
    graph.initializers.clear()
    for name, value in tensors.items():
        tensor, value.const_value = value.const_value, None  # its name is not ours to change
        value.name = prefix + name
        value.const_value = None if tensor is None else _called(value.name, tensor)
    for node in nodes:
        node.name = prefix + node.name if node.name else None
    for value in initializers:
        whole.register_initializer(value)
    if graph is not whole:
        ir.convenience.replace_all_uses_with(graph.inputs, whole.inputs)
    return tensors, nodes


def _called(name: str, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The tensor under another name."""
    shape = ir.Shape(tensor.shape.numpy())
    if tensor.dtype == ir.DataType.STRING:
        return ir.StringTensor(tensor.numpy(), shape=shape, name=name)
    return ir.LazyTensor(lambda: tensor, tensor.dtype, shape, name=name)


def _product(editor: GraphEditor, product: UnitProduct, matrices: Mapping[int, Sequence[Matrix]]) -> ir.Value:
    i, j = product.pair
    terms = [
        editor.product(matrices[view][i].tensor, matrices[view][j].tensor, units_first=matrices[view][i].units_first)
        for view in product.views
    ]
    return terms[0] if len(terms) == 1 else editor.apply("Sum", *terms)
