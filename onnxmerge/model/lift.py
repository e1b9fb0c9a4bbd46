"""Weights that do not stand among the initializers of the main graph, brought there."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def lift_scalers(model: ir.Model) -> None:
    """Write each Scaler of ai.onnx.ml as Sub and Mul, in place: its offset and scale were fitted, so they are weights.

    Only where it reads float32, as far as declared: for other types it converts, which Sub does not. One that is not
    what its schema says is left to `valid.require_valid`.
    """
    if model.opset_imports.get("", 0) < 7:  # from there on Sub and Mul broadcast
        return
    for node in [node for node in model.graph if (node.domain, node.op_type) == ("ai.onnx.ml", "Scaler")]:
        if len(node.inputs) != 1 or len(node.outputs) != 1:
            continue
        value, result = node.inputs[0], node.outputs[0]
        numbers = all(attribute.type == ir.AttributeType.FLOATS for attribute in node.attributes.values())
        if value is None or value.dtype != ir.DataType.FLOAT or not numbers:
            continue
        stem = node.name or result.name or "Scaler"
        for operator, attribute, default in (("Sub", "offset", 0.0), ("Mul", "scale", 1.0)):
            given = node.attributes.get(attribute)
            fitted = np.asarray(given.as_floats() if given is not None else [default], np.float32)
            name = f"{stem}_{attribute}"
            weight = ir.val(name, const_value=ir.Tensor(fitted, name=name))
            model.graph.initializers.add(weight)
            step = ir.node(operator, [value, weight], name=f"{stem}_{operator}")
            model.graph.insert_before(node, step)
            value = step.outputs[0]
            value.name, value.type, value.shape = f"{name}_output", ir.TensorType(ir.DataType.FLOAT), result.shape
        result_name, result.name = result.name, None
        result.replace_all_uses_with(value, replace_graph_outputs=True)
        value.name = result_name
        model.graph.remove(node, safe=True)


def complete_calls(model: ir.Model) -> None:
    """Give every call of a function an output for each that the function has, in place: a call may leave them out."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    for node in [node for graph in graphs for node in graph.all_nodes()]:
        function = model.functions.get(node.op_identifier())
        if function is not None and len(node.outputs) < len(function.outputs):
            node.resize_outputs(len(function.outputs))


def detach_subgraph_outputs(model: ir.Model) -> None:
    """Put an Identity before every output of a subgraph that is one of its initializers, in place.

    A subgraph may not give a tensor of the outer graph as it is, so these could not be moved there.
    """
    for graph in model.graph.subgraphs():
        for index, value in enumerate(graph.outputs):
            if not value.is_initializer():
                continue
            copy = ir.node("Identity", [value], name=f"{value.name}_copy")
            copy.outputs[0].name = f"{value.name}_output"
            copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
            graph.append(copy)
            graph.outputs[index] = copy.outputs[0]
