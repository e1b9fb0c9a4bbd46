"""Walk the graph once, in order: every node says which cells of its operands and outputs are the same units."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.axes.cells import Cells
from onnxmerge.axes.choice import choose, offered_values
from onnxmerge.axes.node_context import Findings, NodeContext
from onnxmerge.axes.operators import OperatorTable, builtin_operators, find_operator
from onnxmerge.axes.resolve import resolve
from onnxmerge.axes.roles import consumed
from onnxmerge.axes.signature import NEUTRAL, Axes, MisfitError
from onnxmerge.model.arrays import same_numbers
from onnxmerge.model.hoist import bodies, captured_values
from onnxmerge.model.network import Network
from onnxmerge.model.quantised import is_quantised_weight
from onnxmerge.model.trace import Trace
from onnxmerge.model.traits import has
from onnxmerge.types import Arrays
from onnxmerge.units.layout import Typing

CORNER = 8
"""Numbers along each axis of the part of a tensor that tells most often whether it is the same along an axis."""


@dataclass(frozen=True, slots=True)
class Inference:
    """The cells of every tensor after the walk. ``weights`` are the initializers that training learns, in order."""

    graph: ir.Graph
    cells: Cells
    axes: Mapping[str, Axes]
    weights: tuple[str, ...]
    statistics: frozenset[str]
    findings: Findings


def type_graph(
    network: Network,
    trace: Trace,
    weights: Sequence[Arrays],
    operators: OperatorTable | None = None,
    border: Collection[str] = (),
) -> Typing:
    """Infer the spaces of a graph that all the given weights fit.

    ``trace`` gives shapes and constants (``model.trace``); ``weights`` holds one mapping for each model, keyed by the
    graph's initializer names. ``operators`` adds to, and goes before, the built-in signatures. ``border`` are outputs
    whose units may move, and which tap them.
    """
    return resolve_inference(infer(network, trace, weights, operators, border), trace)[0]


def resolve_inference(inference: Inference, trace: Trace) -> tuple[Typing, Mapping[int, str]]:
    """The typing, and the space of each leaf cell (see ``axes.resolve``)."""
    cells, axes, weights, findings = inference.cells, inference.axes, inference.weights, inference.findings
    typing, names = resolve(cells, axes, trace.shapes, weights, inference.statistics, findings)
    roles = consumed(inference.graph, cells, axes, findings, weights=weights, constants=trace.constants, names=names)
    return replace(typing, consumed=roles), names


def infer(
    network: Network,
    trace: Trace,
    weights: Sequence[Arrays],
    operators: OperatorTable | None = None,
    border: Collection[str] = (),
) -> Inference:
    """Unify along every node. See ``type_graph``."""
    return _Walk(network, trace, _distinct(weights), {**builtin_operators(), **(operators or {})}, border).run()


def _distinct(weights: Sequence[Arrays]) -> list[Arrays]:
    """The first model's weights and those that differ from them: a copy is no evidence of what all models share.

    What is equal in all models is taken for a table; of a model and its copy that would be every weight.
    """
    first, *others = weights
    return [first, *(own for own in others if not all(np.array_equal(own[name], first[name]) for name in own))]


class _Walk:
    def __init__(
        self,
        network: Network,
        trace: Trace,
        weights: Sequence[Arrays],
        table: OperatorTable,
        border: Collection[str],
    ) -> None:
        self.graph = network.model.graph
        self.border = border
        self.trace = trace
        self.weights = weights
        self.table = table
        self.opsets = {("" if d == "ai.onnx" else d): v for d, v in network.model.graph.opset_imports.items()}
        self.cells = Cells()
        self.axes: dict[str, Axes] = {}
        self.findings = Findings()
        self.from_weights: set[str] = set()
        self.from_lengths: set[str] = set()
        self.constants = {name: trace.values[name] for name in trace.constants if name in trace.values}

    def run(self) -> Inference:
        statistics = frozenset(self._statistics())
        learned = [name for name in self._names_in_use() if self._is_learned(name)]
        for value in self.graph.inputs:
            self.cells.where = f"input {value.name!r}"
            self._set_fixed(value, "the model's interface")
        self.from_weights.update(learned)
        for name in learned:
            self.cells.where = f"initializer {name!r}"
            self.axes[name] = self._initializer_axes(name, statistic=name in statistics)
        for node in self.graph:
            self._visit(node)
        for value in self.graph.outputs:
            self.cells.where = f"output {value.name!r}"
            if value.name in self.border:
                self._tap(str(value.name))
            else:
                self._fix(value, "the model's interface")
        return Inference(self.graph, self.cells, self.axes, tuple(learned), statistics, self.findings)

    def _names_in_use(self) -> list[str]:
        """Initializers in the order in which nodes read them: spaces are numbered along the graph."""
        used = dict.fromkeys(value.name for node in self.graph for value in node.inputs if value is not None)
        return [name for name in used if name is not None and name in self.graph.initializers]

    def _is_learned(self, name: str) -> bool:
        value = self.graph.initializers[name]
        if value.dtype is None or name not in self.trace.shapes:
            return False
        return value.dtype.is_floating_point() or is_quantised_weight(value)

    def _statistics(self) -> list[str]:
        found: list[str] = []
        for node in self.graph:
            variants = find_operator(self.table, node.domain, node.op_type, self.opsets.get(node.domain, 1))
            for index in {index for spec in variants for index in spec.statistic_inputs()}:
                value = node.inputs[index] if index < len(node.inputs) else None
                if value is not None and value.is_initializer() and value.name:
                    found.append(value.name)
        return found

    # --- where cells begin -------------------------------------------------------------------------------------

    def _initializer_axes(self, name: str, *, statistic: bool) -> Axes:
        """A free cell for each axis, except where all models are uniform along it or hold the same table."""
        shape = self.trace.shapes[name]
        uniform = [not statistic] * len(shape)
        equal = len(self.weights) > 1 and not statistic
        first = np.asarray(self.weights[0][name])
        for index, weights in enumerate(self.weights):
            array = np.asarray(weights[name])
            uniform = [flag and _uniform(array, axis) for axis, flag in enumerate(uniform)]
            equal = equal and (index == 0 or same_numbers(array, first))
        axes = []
        for size, neutral in zip(shape, uniform, strict=True):
            if neutral and size > 1:
                axes.append(NEUTRAL)
                continue
            cell = self.cells.new(size)
            if equal and size > 1:
                self.cells.fix(cell, "a table that is the same in all models")
            elif size == 0:
                self.cells.fix(cell, "an empty axis")
            axes.append(cell)
        return tuple(axes)

    def _constant_axes(self, value: NDArray[Any]) -> Axes:
        return tuple(
            NEUTRAL
            if _uniform(value, axis) and size > 1
            else self.cells.new_fixed(size, "a constant that is not uniform")
            for axis, size in enumerate(value.shape)
        )

    def _set_fixed(self, value: ir.Value, reason: str) -> None:
        shape = self.trace.shapes.get(value.name or "")
        if shape is not None and value.name:
            self.axes[value.name] = tuple(self.cells.new_fixed(size, reason) for size in shape)

    def _fix(self, value: ir.Value | None, reason: str) -> None:
        for cell in self.axes.get(value.name or "", ()) if value is not None else ():
            if cell != NEUTRAL:
                self.cells.fix(cell, reason)

    def _tap(self, name: str) -> None:
        """Let the units of a border tensor be compared by what heads will read of them."""
        dtype = self.trace.dtypes.get(name)
        if dtype is not None and ir.DataType.from_numpy(dtype).is_floating_point():
            self.findings.taps.extend((name, cell) for cell in self.axes.get(name, ()) if cell != NEUTRAL)

    # --- nodes -------------------------------------------------------------------------------------------------

    def _visit(self, node: ir.Node) -> None:
        names = [value.name for value in node.outputs if value.name]
        self._note_origin(node, names)
        if names and all(name in self.constants for name in names):
            return
        opset = self.opsets.get(node.domain, 1)
        offered = offered_values(node)
        for value in (*node.inputs, *chain.from_iterable(offered or ())):
            if value is not None and value.name in self.constants and value.name not in self.axes:
                self.cells.where = f"constant {value.name!r}"
                self.axes[value.name] = self._constant_axes(self.constants[value.name])
        origins = (self.from_weights, self.from_lengths)
        known = (self.constants, self.trace.partly)
        context = NodeContext(node, self.cells, self.axes, self.trace.shapes, *known, opset, self.findings, *origins)
        self.cells.where = context.label
        outputs = self._outputs(context) if offered is None else self._checked(context, choose(context, offered))
        for axes, value in zip(outputs, node.outputs, strict=False):
            if axes is not None and value.name:
                self.axes[value.name] = axes

    def _note_origin(self, node: ir.Node, outputs: Sequence[str]) -> None:
        """Follow what is computed from weights alone, and what from the lengths of anything else."""
        inputs = {str(value.name) for value in node.inputs if value is not None}
        if has(node, "gives_sizes"):
            if not inputs <= self.from_weights | self.graph.initializers.keys():
                self.from_lengths.update(outputs)
        elif inputs & self.from_lengths and inputs <= self.constants.keys():
            self.from_lengths.update(outputs)
        elif inputs & self.from_weights and inputs <= self.from_weights | self.constants.keys():
            self.from_weights.update(outputs)

    def _outputs(self, context: NodeContext) -> tuple[Axes | None, ...]:
        node = context.node
        if bodies(node):
            for value in captured_values(node):
                self._fix(value, f"captured by the body of {node.op_type}")
            return context.freeze(f"{node.op_type} has a body that cannot be brought into the graph")
        variants = find_operator(self.table, node.domain, node.op_type, context.opset)
        if not variants:
            domain = node.domain or "ai.onnx"
            return context.freeze(f"operator {domain}::{node.op_type} is not described")
        problem = "attributes that no entry is for"
        for spec in variants:
            if not spec.suits(context):
                continue
            try:
                return self._checked(context, spec.apply(context))
            except MisfitError as error:
                problem = str(error)
        return context.freeze(f"{node.op_type} has an unexpected form ({problem})")

    def _checked(self, context: NodeContext, outputs: tuple[Axes | None, ...]) -> tuple[Axes | None, ...]:
        """What a rule yields must be what the trace has; where it is not, the node is fixed, never trusted."""
        found: list[Axes | None] = []
        for index, (value, shape) in enumerate(zip(context.node.outputs, context.output_shapes(), strict=True)):
            axes = outputs[index] if index < len(outputs) else None
            if shape is None:
                if value.uses() or value.is_graph_output():
                    return context.freeze(f"the type or shape of output {value.name!r} is unknown")
            elif axes is None:
                if any(size > 1 for size in shape):
                    return context.freeze(f"output {value.name!r} of {context.node.op_type} is not described")
                axes = tuple(self.cells.new(size) for size in shape)
            else:
                sizes = [size if c == NEUTRAL else self.cells.size(c) for c, size in zip(axes, shape, strict=False)]
                if len(axes) != len(shape) or sizes != list(shape):
                    return context.freeze(f"typed as {sizes} where the trace has {list(shape)}")
            found.append(axes)
        return tuple(found)


def _uniform(array: NDArray[Any], axis: int) -> bool:
    """Whether all slices along an axis are equal. Looks at a corner first: most tensors differ there already."""
    if array.shape[axis] <= 1 or array.size == 0:
        return True
    corner = array[(slice(CORNER),) * array.ndim]
    if not np.array_equal(corner, np.broadcast_to(corner.take([0], axis), corner.shape)):
        return False
    first = array.take([0], axis)
    if not np.array_equal(first, array.take([-1], axis)):
        return False
    return bool(np.all(array == first))
