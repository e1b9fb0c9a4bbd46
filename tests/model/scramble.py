"""The same network as another exporter might write it: other names and orders, operands swapped, copies in between."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper

SWAPPED = frozenset({"Add", "Mul", "Max", "Min", "And", "Or", "Equal", "Sum", "Mean"})


def scramble(model: onnx.ModelProto, seed: int = 0, *, copies: bool = True) -> onnx.ModelProto:
    """A copy of a model without functions, which computes the same.

    Names of all nodes and values are drawn anew (inputs and outputs too; bodies of If keep their own), nodes stand in
    a random topological order, initializers are shuffled, operands of commutative operators swapped at random, some
    initializers read through Identity, small ones moved to Constant nodes.
    """
    rng = np.random.default_rng(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    _copy_initializers(graph, rng) if copies else None
    _rename(graph, rng)
    _reorder(graph, rng)
    for node in graph.node:
        if node.op_type in SWAPPED and not node.domain:
            operands = list(rng.permutation(np.array(node.input, object)))
            del node.input[:]
            node.input.extend(operands)
    initializers = list(graph.initializer)
    del graph.initializer[:]
    graph.initializer.extend(initializers[index] for index in rng.permutation(len(initializers)))
    del graph.value_info[:]
    return copy


def _copy_initializers(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """Read some initializers through a node: a Constant for small ones, else an Identity."""
    outer = {item.name for item in (*graph.input, *graph.output)}
    for tensor in list(graph.initializer):
        if tensor.name in outer or rng.random() < 0.5:
            continue
        if len(tensor.raw_data) < 64 and rng.random() < 0.5:
            graph.initializer.remove(tensor)
            node = onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        else:
            name, tensor.name = tensor.name, f"{tensor.name}/stored"
            node = onnx.helper.make_node("Identity", [tensor.name], [name])
        graph.node.insert(0, node)


def _rename(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    names = {item.name for item in (*graph.input, *graph.output, *graph.initializer)}
    names |= {name for node in graph.node for name in node.output if name}
    fresh = dict(zip(sorted(names), (f"t{number}" for number in rng.permutation(len(names))), strict=True))
    for item in (*graph.input, *graph.output, *graph.initializer):
        item.name = fresh[item.name]
    for number, node in enumerate(graph.node):
        node.name = f"n{number}"
        node.output[:] = [fresh.get(name, name) for name in node.output]
    pending = list(graph.node)
    while pending:  # what subgraphs capture is renamed with it
        node = pending.pop()
        node.input[:] = [fresh.get(name, name) for name in node.input]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                pending.extend(inner.node)


def _reorder(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = [{makers[name] for name in _reads(node) if name in makers} for node in graph.node]
    readers: list[list[int]] = [[] for _ in needs]
    for index, found in enumerate(needs):
        for maker in found:
            readers[maker].append(index)
    open_needs = [len(found) for found in needs]
    ready = [index for index, count in enumerate(open_needs) if not count]
    order = []
    while ready:
        index = ready.pop(rng.integers(len(ready)))
        order.append(index)
        for reader in readers[index]:
            open_needs[reader] -= 1
            if not open_needs[reader]:
                ready.append(reader)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes[index] for index in order)


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node needs from its own graph: its operands and what its subgraphs capture."""
    found = set(node.input)
    for attribute in node.attribute:
        for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            own = {item.name for item in (*inner.input, *inner.initializer)}
            own |= {name for body in inner.node for name in body.output}
            found |= {name for body in inner.node for name in _reads(body)} - own
    return found
