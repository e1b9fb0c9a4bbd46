"""Shape inference by onnx, of graphs from anywhere: what some operators' functions would not survive is kept from them.

Inference goes on where it does not know the type of a tensor, and a few of onnx's functions read it all the same: that
ends the process. So nodes of these operators are not inferred; the tensors that they give stay unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
import onnx.shape_inference
import onnx_ir as ir

from onnxmerge.model.external import reopened

_UNGUARDED = {
    "EyeLike": "",
    "RegexFullMatch": "",
    "DictVectorizer": "ai.onnx.ml",
    "LabelEncoder": "ai.onnx.ml",
    "TreeEnsemble": "ai.onnx.ml",
}
"""Operators whose inference needs an operand's type and does not ask whether there is one. Found by giving operands
without a type to every operator of onnx, in all its versions."""
_UNKNOWN = "onnxmerge.not.inferred"
"""A domain of no operators: inference passes over what it does not know."""


def without_weights(model: ir.Model, keeps: Callable[[ir.TensorProtocol], bool]) -> onnx.ModelProto:
    """A model as a message in which all initializers but those that ``keeps`` are inputs, of which nothing is read.

    Those that are kept are in the message, also where they lie in a data file: onnx reads none.

    Raises whatever onnx-ir raises for what it reads but cannot write.
    """
    graph = model.graph
    inputs, initializers = list(graph.inputs), []
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and keeps(tensor) and isinstance(tensor, ir.ExternalTensor):
            held = ir.Tensor(reopened(tensor).numpy(), dtype=tensor.dtype, name=name)
            initializers.append(ir.val(name, tensor.dtype, tensor.shape.numpy(), const_value=held))
        elif tensor is None or keeps(tensor):
            initializers.append(value)
        else:
            # Nodes say by name what they read, so the graph need not be copied to give them another value.
            inputs.append(ir.val(name, tensor.dtype, tensor.shape.numpy()))
    view = ir.GraphView(
        inputs,
        graph.outputs,
        nodes=graph,
        initializers=initializers,
        opset_imports=graph.opset_imports,
        name=graph.name,
    )
    return ir.to_proto(
        ir.Model(
            view,  # type: ignore[arg-type]  # as its documentation says
            ir_version=max(model.ir_version, 4),  # before that every initializer had to be an input too
            functions=tuple(model.functions.values()),
            device_configurations=model.device_configurations,
        )
    )


def infer(model: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
    """A copy of a model with the shapes and types that onnx infers; ``options`` are those of ``infer_shapes``.

    Raises whatever onnx raises.
    """
    kept = [node for node in _nodes(model.graph) if _UNGUARDED.get(node.op_type) == _plain(node.domain)]
    domains = [node.domain for node in kept]
    try:
        for node in kept:
            node.domain = _UNKNOWN
        inferred = onnx.shape_inference.infer_shapes(model, **options)
    finally:
        for node, domain in zip(kept, domains, strict=True):
            node.domain = domain
    for node in _nodes(inferred.graph):
        if node.domain == _UNKNOWN:
            node.domain = _UNGUARDED[node.op_type]
    return inferred


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, and the graphs in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from graphs(inner)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph, and of the graphs in it."""
    for each in graphs(graph):
        yield from each.node
