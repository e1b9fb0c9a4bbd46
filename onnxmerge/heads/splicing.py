"""Move a copy of one parent's tail into the merged graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from onnxmerge.errors import StructureError
from onnxmerge.heads.cutting import Head
from onnxmerge.model.names import UniqueNames
from onnxmerge.model.network import Weights
from onnxmerge.model.session import lazy
from onnxmerge.model.signature import STANDARD, operands, signature, subgraphs
from onnxmerge.types import Positions

Reading: TypeAlias = Mapping[str, Mapping[int, Positions]]
"""Border tensor -> axis -> which merged position stands at each position that the parent's tail reads."""


def splice(
    model: ir.Model, names: UniqueNames, head: Head, border: Mapping[str, ir.Value], reading: Reading
) -> tuple[str, ...]:
    """Append the head's tail to ``model``, in place, reading ``border``; the names of the parent's outputs there.

    Values of the tail get the head's tag behind their names. Raises StructureError where a node of the tail would
    mean something else under the model's opsets.
    """
    copy = head.network.model.clone()
    tail = [node for node in copy.graph if node.name in head.tail]
    _require_opsets(model, copy, tail, head)
    outputs = [
        names.fresh(name) if name is not None else joint
        for name, joint in zip(head.outputs, _joint_names(head), strict=True)
    ]
    ends = [(value, name) for value, own, name in zip(copy.graph.outputs, head.outputs, outputs, strict=True) if own]
    wanted = dict.fromkeys([*(value for node in tail for value in operands(node)), *(value for value, _ in ends)])
    known = dict(zip(copy.graph.inputs, model.graph.inputs, strict=True))
    known |= {
        value: _initializer(model, value, names.fresh(f"{value.name}_{head.tag}"))
        for value in copy.graph.initializers.values()
        if value in wanted
    }
    known |= {
        value: _in_order(model, border[head.border[name]], reading.get(head.border[name], {}), names, head.tag)
        for value in wanted
        if (name := str(value.name)) in head.border and value.producer() not in tail
    }
    copy.graph.outputs.clear()
    _rename(tail, names, head.tag)
    for node in tail:
        _rewire(node, known)
    copy.graph.remove(tail)
    model.graph.extend(tail)
    for value, name in ends:
        model.graph.outputs.append(_output(model, known.get(value, value), name, value, names))
    return tuple(outputs)


def _joint_names(head: Head) -> list[str]:
    """For each output of the parent, the trunk's name for it; its own where the trunk does not make it."""
    return [head.border.get(str(value.name), str(value.name)) for value in head.network.graph.outputs]


def _initializer(model: ir.Model, value: ir.Value, name: str) -> ir.Value:
    """A copy of an initializer in another model under another name, read when it is written."""
    if value.const_value is None:
        raise StructureError(f"initializer {value.name!r} has no data; export the model again")
    tensor = value.const_value
    if tensor.dtype == ir.DataType.STRING:
        held: ir.TensorProtocol = ir.StringTensor(tensor.numpy(), shape=ir.Shape(tensor.shape.numpy()), name=name)
    else:
        held = lazy(tensor, name, Weights({name: tensor}), str(value.name))
    copied = ir.Value(name=name, type=value.type, shape=value.shape, const_value=held)
    model.graph.register_initializer(copied)
    return copied


def _in_order(
    model: ir.Model, value: ir.Value, orders: Mapping[int, Positions], names: UniqueNames, tag: str
) -> ir.Value:
    """The value with its axes in the parent's order, by one Gather for each axis that moves."""
    for axis, order in sorted(orders.items()):
        name = names.fresh(f"{value.name}_order_{tag}")
        positions = ir.val(name, const_value=ir.Tensor(np.asarray(order, np.int64), name=name))
        model.graph.register_initializer(positions)
        node = ir.node("Gather", [value, positions], {"axis": axis}, name=names.fresh(f"{name}_gather"))
        node.outputs[0].name = names.fresh(f"{value.name}_{tag}")
        model.graph.append(node)
        value = node.outputs[0]
    return value


def _output(model: ir.Model, value: ir.Value, name: str, like: ir.Value, names: UniqueNames) -> ir.Value:
    """The value as an output of this name: itself where it can bear it, else a copy."""
    producer = value.producer()
    if value is like and producer is not None and not value.is_graph_output():
        value.name = name
        return value
    node = ir.node("Identity", [value], name=names.fresh(f"{name}_copy"))
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, like.type, like.shape
    model.graph.append(node)
    return node.outputs[0]


def _rename(nodes: Iterable[ir.Node], names: UniqueNames, tag: str) -> None:
    for node in nodes:
        node.name = names.fresh(f"{node.name}_{tag}")
        for value in node.outputs:
            if value.name:
                value.name = names.fresh(f"{value.name}_{tag}")
        for _, graph in subgraphs(node):
            for value in graph.inputs:
                value.name = names.fresh(f"{value.name}_{tag}")
            _rename(graph, names, tag)


def _rewire(node: ir.Node, known: Mapping[ir.Value, ir.Value]) -> None:
    """Read the values of the merged model in place of the parent's, in subgraphs too."""
    for index, value in enumerate(node.inputs):
        if value is not None and value in known:
            node.replace_input_with(index, known[value])
    for _, graph in subgraphs(node):
        for inner in graph:
            _rewire(inner, known)
        graph.outputs[:] = [known.get(value, value) for value in graph.outputs]


def _require_opsets(model: ir.Model, copy: ir.Model, tail: Iterable[ir.Node], head: Head) -> None:
    """Import the tail's domains, and refuse a node that another version of its domain would read otherwise."""
    mine, theirs = model.graph.opset_imports, copy.graph.opset_imports
    for node in (each for outer in tail for each in _with_inner(outer)):
        domain = "" if node.domain in STANDARD else node.domain
        version = theirs.get(domain, theirs.get("ai.onnx", 1) if not domain else 1)
        target = mine.setdefault(domain, version) if domain else mine.get("", mine.get("ai.onnx", version))
        if version != target and (signature(node, theirs) != signature(node, mine) or not _takes(node, domain, target)):
            raise StructureError(
                f"{head.network.label}: node {node.name!r} ({node.op_type}) is of opset {version}, the first model of "
                f"{target}, where it means something else; export both with one opset"
            )


def _takes(node: ir.Node, domain: str, version: int) -> bool:
    """Whether an operator takes these attributes and so many inputs in a version of its domain."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        return False
    given = sum(value is not None for value in node.inputs)
    return set(node.attributes) <= set(schema.attributes) and schema.min_input <= given <= schema.max_input


def _with_inner(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    for _, graph in subgraphs(node):
        for inner in graph:
            yield from _with_inner(inner)
