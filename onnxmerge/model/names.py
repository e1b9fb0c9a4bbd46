"""Unique names for all nodes and values of a model, and for what is added to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx_ir as ir


def name_uniquely(model: ir.Model) -> None:
    """Give every node and value a name that no other has, in the main graph and all subgraphs, in place.

    The main graph's inputs, outputs and initializers keep theirs; what comes later yields. An output that is left
    out stays without a name: that is how ONNX writes it.
    """
    values = UniqueNames()
    nodes = UniqueNames()
    graphs = [model.graph, *model.graph.subgraphs()]
    named: set[ir.Value] = set()

    def name(value: ir.Value) -> None:
        if value not in named:
            named.add(value)
            fresh = values.fresh(value.name or "value")
            if fresh != value.name:
                value.name = fresh

    for graph in graphs:
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            name(value)
    for graph in graphs:
        for node in graph:
            node.name = nodes.fresh(node.name or node.op_type)
            for value in node.outputs:
                if not value.name and value.uses():
                    value.name = f"{node.name}_output_{value.index()}"
                if value.name:
                    name(value)


class UniqueNames:
    """Names given out so far: those ``taken``, and new ones."""

    def __init__(self, taken: Iterable[str | None] = ()) -> None:
        self._taken = set(taken)
        self._numbers: Counter[str] = Counter()

    @classmethod
    def of(cls, model: ir.Model) -> UniqueNames:
        """Those of the nodes and values of a model."""
        taken = {node.name for node in model.graph.all_nodes()}
        taken |= {value.name for node in model.graph.all_nodes() for value in node.outputs}
        for graph in (model.graph, *model.graph.subgraphs()):
            taken |= {value.name for value in (*graph.inputs, *graph.initializers.values())}
        return cls(taken)

    def fresh(self, wanted: str) -> str:
        """``wanted``, with a number behind it where that is taken."""
        name = wanted
        while name in self._taken:
            self._numbers[wanted] += 1
            name = f"{wanted}_{self._numbers[wanted]}"
        self._taken.add(name)
        return name
