"""A network several times over with other values for a few initializers; what these do not reach is computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxmerge.model.signature import operands, subgraphs
from onnxmerge.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Variants:
    """One graph for all variants: ``names[k]`` says what an output of the network is called for the k-th of them.

    ``changed`` are the initializers that variants have for themselves, by their names in ``model``.
    """

    model: ir.Model
    changed: Mapping[str, Array]
    names: tuple[Mapping[str, str], ...]


def variants(model: ir.Model, outputs: Sequence[str], changes: Sequence[Mapping[str, Array]]) -> Variants | None:
    """``model``, which is not changed, with the initializers of each of ``changes`` replaced, to give ``outputs``.

    None where a node with a subgraph would have to be there several times.
    """
    copy = model.clone()
    nodes, changed = list(copy.graph), dict[str, Array]()
    names = []
    for index, change in enumerate(changes):
        own: dict[ir.Value, ir.Value] = {}
        for name, array in change.items():
            before = copy.graph.initializers[name]
            value = ir.val(_renamed(name, index) or "", const_value=before.const_value)
            copy.graph.register_initializer(value)
            own[before] = value
            changed[str(value.name)] = array
        for node in nodes:
            if not any(value in own for value in operands(node)):
                continue
            if subgraphs(node):
                return None
            own.update(zip(node.outputs, _again(copy.graph, node, own, index).outputs, strict=True))
        made = {str(old.name): str(new.name) for old, new in own.items()}
        names.append({name: made.get(name, name) for name in outputs})
    return Variants(copy, changed, tuple(names))


def _again(graph: ir.Graph, node: ir.Node, own: Mapping[ir.Value, ir.Value], index: int) -> ir.Node:
    """A copy of a node at the end of the graph, which reads a variant's own values."""
    twin = ir.Node(
        node.domain,
        node.op_type,
        [value if value is None else own.get(value, value) for value in node.inputs],
        list(node.attributes.values()),
        overload=node.overload,
        version=node.version,
        num_outputs=len(node.outputs),
        name=_renamed(node.name, index),
    )
    for old, new in zip(node.outputs, twin.outputs, strict=True):
        new.name = _renamed(old.name, index)
        new.type, new.shape = old.type, old.shape
    graph.append(twin)
    return twin


def _renamed(name: str | None, index: int) -> str | None:
    """The name that a variant has for something; what has none stays without (an optional output that is left out)."""
    return f"onnxmerge::{index}::{name}" if name else name
