"""Roles: along which axes an initializer takes units in, and along which it gives them.

A matrix product y = W x adds up over the axis of W that meets x: there W *consumes* the units of x. Every other axis
of a weight (rows of W, a bias, the scale of a norm, the columns of an embedding) belongs to units that it gives. A
permutation treats both alike; a zip does not, since a sum over units and a mean over units are not the same.

A weight may go through operators before it meets an activation (Transpose, Cast, DequantizeLinear), so its roles are
read off its readers, backwards through everything that is computed from weights alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxmerge.axes.cells import Cells
from onnxmerge.axes.node_context import Findings
from onnxmerge.axes.signature import NEUTRAL, Axes
from onnxmerge.axes.spaces import leaves_below

Roles = frozenset[tuple[int, str]]
"""(axis, space) of a tensor, consumed there."""


def consumed(
    graph: ir.Graph,
    cells: Cells,
    axes: Mapping[str, Axes],
    findings: Findings,
    *,
    weights: Collection[str],
    constants: Collection[str],
    names: Mapping[int, str],
) -> frozenset[tuple[str, int, str]]:
    """The (initializer, axis, space) that are consumed by every reader of the initializer.

    ``weights`` are the initializers that training learns, ``constants`` values that do not depend on what the model is
    fed, ``names`` the space of each leaf cell.
    """
    among_weights = _nodes_among_weights(graph, {*weights}, {*constants, *graph.initializers})
    readers = _Readers(cells, axes, findings, names, among_weights)
    return frozenset((name, axis, space) for name in weights for axis, space in readers.of(graph.initializers[name]))


def _nodes_among_weights(graph: ir.Graph, derived: set[str], given: set[str]) -> set[ir.Node]:
    """Nodes that compute from weights and constants alone."""
    found = set()
    for node in graph:
        inputs = {str(value.name) for value in node.inputs if value is not None}
        if inputs & derived and inputs <= derived | given:
            derived.update(str(value.name) for value in node.outputs)
            found.add(node)
    return found


@dataclass(frozen=True, slots=True)
class _Readers:
    cells: Cells
    axes: Mapping[str, Axes]
    findings: Findings
    names: Mapping[int, str]
    among_weights: set[ir.Node]
    known: dict[ir.Value, Roles] = field(default_factory=dict)

    def of(self, value: ir.Value) -> Roles:
        """What all readers of a value consume of it."""
        if value not in self.known:
            uses = [self._use(node, index) for node, index in value.uses()]
            self.known[value] = frozenset.intersection(*uses) if uses else frozenset()
        return self.known[value]

    def _use(self, node: ir.Node, index: int) -> Roles:
        summed = frozenset(
            (axis, space)
            for axis, cell in self.findings.summed.get((node, index), ())
            for space in self._spaces_of(cell)
        )
        if node not in self.among_weights:
            return summed
        # Where two weights meet (low-rank updates), the first gives the units that the second takes in.
        found = set(summed if index > 0 else ())
        for output in node.outputs:
            for axis, space in self.of(output):
                found.update((before, space) for before in self._behind(node, index, output, axis, space))
        return frozenset(found)

    def _behind(self, node: ir.Node, index: int, output: ir.Value, axis: int, space: str) -> list[int]:
        """The axis of a node's input that its output's ``axis`` comes from, as far as ``space`` goes.

        Operators on weights keep the order in which a space that stands twice comes, but for Transpose.
        """
        before, after = (self._axes_with(value, space) for value in (node.inputs[index], output))
        if node.op_type == "Transpose" and len(before) > 1:
            rank = len(self.axes[str(output.name)])
            order = node.attributes.get_ints("perm", range(rank - 1, -1, -1))
            return [order[axis]]
        if len(before) == len(after) and axis in after:
            return [before[after.index(axis)]]
        return before if len(before) == 1 else []

    def _axes_with(self, value: ir.Value | None, space: str) -> list[int]:
        cells = self.axes.get(str(value.name), ()) if value is not None else ()
        return [axis for axis, cell in enumerate(cells) if space in self._spaces_of(cell)]

    def _spaces_of(self, cell: int) -> set[str]:
        if cell == NEUTRAL:
            return set()
        return {self.names[leaf] for leaf in leaves_below(self.cells, cell) if leaf in self.names}
