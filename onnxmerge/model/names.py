"""Unique names for all nodes and values of a model, and for what is added to it."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir


def name_uniquely(model: ir.Model) -> None:
    """Give every node and value a name that no other has, in the main graph and all subgraphs, in place.

    The main graph's inputs, outputs and initializers keep theirs; what comes later yields. An output that is left
    out stays without a name: that is how ONNX writes it.
    """
    values = _Names()
    nodes = _Names()
    graphs = [model.graph, *model.graph.subgraphs()]
    named: set[ir.Value] = set()

    def name(value: ir.Value) -> None:
        if value not in named:
            named.add(value)
            fresh = values.take(value.name or "value")
            if fresh != value.name:
                value.name = fresh

    for graph in graphs:
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            name(value)
    for graph in graphs:
        for node in graph:
            node.name = nodes.take(node.name or node.op_type)
            for value in node.outputs:
                if not value.name and value.uses():
                    value.name = f"{node.name}_output_{value.index()}"
                if value.name:
                    name(value)


class UniqueNames:
    """Names of nodes and values of a model, and new ones beside them."""

    def __init__(self, model: ir.Model) -> None:
        graphs = (model.graph, *model.graph.subgraphs())
        self._taken = {node.name for node in model.graph.all_nodes()}
        self._taken |= {value.name for node in model.graph.all_nodes() for value in node.outputs}
        self._taken |= {value.name for graph in graphs for value in (*graph.inputs, *graph.initializers.values())}

    def fresh(self, wanted: str) -> str:
        """``wanted``, with a number behind it where that is taken."""
        name, number = wanted, 0
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


class _Names:
    """Names given out so far; a name that was given out before gets a number."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: Counter[str] = Counter()

    def take(self, wanted: str) -> str:
        name = wanted
        while name in self._taken:
            self._numbers[wanted] += 1
            name = f"{wanted}_{self._numbers[wanted]}"
        self._taken.add(name)
        return name
