"""Networks on their way to another process: a graph as its message and its tensors, and what stands in it by place.

Stages hold nodes and values of graphs beside the graphs. In one pickle they arrive as nodes and values of the one copy.
Pickles are only ever made and read by processes of one job: no input file is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxmerge.errors import InputError
from onnxmerge.model.exposed import Exposed
from onnxmerge.model.external import reopened

Reduced = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its arguments, which give the object: what ``pickle`` calls its reduced value."""


def reduced(value: object) -> Reduced | None:
    """How an object of onnx-ir, or a mapped array, is made anew; None for any other, which pickle knows."""
    if isinstance(value, ir.TensorProtocol):
        return _reduced_tensor(value)
    if isinstance(value, np.memmap):
        return np.asarray, (np.asarray(value),)
    for kind, reduce in _KINDS.items():
        if isinstance(value, kind):
            return reduce(value)
    return None


def _reduced_tensor(tensor: ir.TensorProtocol) -> Reduced:
    """The array of a tensor; every kind of tensor arrives as one that is in memory."""
    shape = tuple(tensor.shape.numpy())
    if tensor.dtype == ir.DataType.STRING:
        return _string_tensor, (list(tensor.numpy().reshape(-1)), shape, tensor.name)
    found = reopened(tensor) if isinstance(tensor, ir.ExternalTensor) else tensor
    return _tensor, (np.asarray(found.numpy()), int(tensor.dtype), shape, tensor.name)


def _tensor(array: Any, dtype: int, shape: tuple[int, ...], name: str | None) -> ir.TensorProtocol:
    return ir.Tensor(array, dtype=ir.DataType(dtype), shape=ir.Shape(shape), name=name)


def _string_tensor(texts: list[bytes], shape: tuple[int, ...], name: str | None) -> ir.StringTensor:
    return ir.StringTensor(np.array(texts, object).reshape(shape), shape=ir.Shape(shape), name=name)


def _reduced_model(model: ir.Model) -> Reduced:
    about = {
        "ir_version": model.ir_version,
        "producer_name": model.producer_name,
        "producer_version": model.producer_version,
        "domain": model.domain,
        "model_version": model.model_version,
        "doc_string": model.doc_string,
        "metadata_props": dict(model.metadata_props),
    }
    functions = [ir.to_proto(function).SerializeToString() for function in model.functions.values()]
    return _model, (model.graph, functions, about)


def _model(graph: ir.Graph, functions: list[bytes], about: Mapping[str, Any]) -> ir.Model:
    made = [ir.from_proto(onnx.FunctionProto.FromString(data)) for data in functions]
    return ir.Model(graph, functions=made, **about)


def _reduced_graph(graph: ir.Graph) -> Reduced:
    """A main graph. Initializers stand in its message as inputs, so that nothing of their data does."""
    held = {name: value.const_value for name, value in graph.initializers.items()}
    stand_ins = [
        ir.val(name, tensor.dtype, tensor.shape.numpy()) for name, tensor in held.items() if tensor is not None
    ]
    view = ir.GraphView(
        [*graph.inputs, *stand_ins],
        graph.outputs,
        nodes=graph,
        opset_imports=graph.opset_imports,
        name=graph.name,
        doc_string=graph.doc_string,
        metadata_props=dict(graph.metadata_props),
    )
    wrapped = ir.to_proto(ir.Model(view, ir_version=10))  # type: ignore[arg-type]  # as its documentation says
    return _graph, (wrapped.SerializeToString(), held, dict(graph.meta))


def _graph(message: bytes, held: Mapping[str, ir.TensorProtocol], meta: Mapping[str, object]) -> ir.Graph:
    graph: ir.Graph = ir.from_proto(onnx.ModelProto.FromString(message)).graph
    for value in [value for value in graph.inputs if value.name in held]:
        graph.inputs.remove(value)
        value.const_value = held[str(value.name)]
        graph.register_initializer(value)
    graph.meta.update(meta)
    return graph


def _reduced_node(node: ir.Node) -> Reduced:
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        raise InputError(f"node {node.name!r} stands in no graph; it cannot be sent to a worker")
    return _node, (graph, list(graph).index(node))


def _node(graph: ir.Graph, place: int) -> ir.Node:
    return list(graph)[place]


def _reduced_value(value: ir.Value) -> Reduced:
    producer = value.producer()
    if producer is not None:
        return _output, (producer, value.index())
    graph = value.graph
    if not isinstance(graph, ir.Graph):
        raise InputError(f"tensor {value.name!r} stands in no graph; it cannot be sent to a worker")
    return _named, (graph, value.name)


def _reduced_exposed(exposed: Exposed) -> Reduced:
    """Its sessions stay here: they are opened again where they are needed."""
    return partial(Exposed, outputs_alone=exposed.outputs_alone), (exposed.network,)


def _output(node: ir.Node, place: int) -> ir.Value:
    return node.outputs[place]


def _named(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for value in _free(graph) if value.name == name)


def _free(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()


_KINDS: Mapping[type, Callable[[Any], Reduced]] = {
    ir.Model: _reduced_model,
    ir.Graph: _reduced_graph,
    ir.Node: _reduced_node,
    ir.Value: _reduced_value,
    Exposed: _reduced_exposed,
}
