"""Unrolling: a Scan or Loop as the steps that it takes on the traced sample, so that its body can be traced and typed.

Like a hoisted network the result serves to look at a model and is never written. A Loop is unrolled if an initializer
gives the number of its steps and its body never ends it. A Scan takes as many steps as its input is long; what is typed
must hold for any number of them. So each state goes through an If that might as well hand the state before the step on,
which makes their units the same ones; and there must be enough steps for whatever is particular about the first states
(zeros, of which no units can be told apart) to be gone: each step leaves fewer such axes, or the same ones for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmerge.model.network import Network
from onnxmerge.model.structure import trips
from onnxmerge.model.trace import Trace

MOST_STEPS = 64
MOST_NODES = 4000
MOST_ADDED = 12_000
"""Loops of more steps, or of more nodes in all steps together, stay as they are; also those for which all loops that
were unrolled before have left no room."""

_SCAN_OPSET = 9
"""Before that a Scan had a batch axis of its own."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a node is unrolled: states come from step to step, an element of each scanned input is taken, by its axis.

    ``axes`` are those along which the outputs of all steps are put together. True in ``turned`` and ``reversed`` stands
    for from the last to the first.
    """

    body: ir.Graph
    steps: int
    states: tuple[ir.Value, ...]
    scanned: tuple[tuple[ir.Value, int], ...] = ()
    turned: tuple[bool, ...] = ()
    axes: tuple[int, ...] = ()
    reversed: tuple[bool, ...] = ()
    counted: bool = False


def unroll(network: Network, found: Trace) -> Network:
    """The network with the loops of its main graph unrolled; the same object where there is nothing to unroll."""
    if not any(_plan(node, found, network.graph.opset_imports.get("", 1)) for node in network.graph):
        return network
    model = network.model.clone()
    changed, room = False, MOST_ADDED
    for node in list(model.graph):
        plan = _plan(node, found, model.graph.opset_imports.get("", 1))
        nodes = 0 if plan is None else plan.steps * sum(1 for _ in plan.body.all_nodes())
        if plan is not None and nodes <= min(MOST_NODES, room):
            _Unrolling(model.graph, node, plan).run()
            changed, room = True, room - nodes
    return replace(network, model=model) if changed else network


def _plan(node: ir.Node, found: Trace, opset: int) -> _Plan | None:
    if node.domain or any(value is None for value in node.inputs[2 if node.op_type == "Loop" else 0 :]):
        return None
    plan = {"Scan": _scan, "Loop": _loop}.get(node.op_type, _nothing)(node, found, opset)
    return plan if plan is not None and 0 < plan.steps <= MOST_STEPS else None


def _nothing(_node: ir.Node, _found: Trace, _opset: int) -> _Plan | None:
    return None


def _scan(node: ir.Node, found: Trace, opset: int) -> _Plan | None:
    count = node.attributes["num_scan_inputs"].as_int()
    values = [value for value in node.inputs if value is not None]
    states, scanned = values[: len(values) - count], values[len(values) - count :]
    shape = found.shapes.get(str(scanned[0].name))
    if opset < _SCAN_OPSET or shape is None:
        return None
    gathered = len(node.outputs) - len(states)
    body = node.attributes["body"].as_graph()
    shapes = [found.shapes.get(str(state.name)) for state in states]
    axes = _integers(node, "scan_input_axes", count)
    steps = shape[axes[0]]
    if any(known is None for known in shapes) or steps <= 1 + sum(len(known or ()) for known in shapes):
        return None
    return _Plan(
        body,
        steps,
        tuple(states),
        tuple(zip(scanned, axes, strict=True)),
        tuple(map(bool, _integers(node, "scan_input_directions", count))),
        tuple(_integers(node, "scan_output_axes", gathered)),
        tuple(map(bool, _integers(node, "scan_output_directions", gathered))),
    )


def _loop(node: ir.Node, _found: Trace, _opset: int) -> _Plan | None:
    steps = trips(node)
    if steps is None:
        return None
    body = node.attributes["body"].as_graph()
    states = tuple(value for value in node.inputs[2:] if value is not None)
    gathered = len(node.outputs) - len(states)
    return _Plan(body, steps, states, axes=(0,) * gathered, reversed=(False,) * gathered, counted=True)


def _integers(node: ir.Node, attribute: str, count: int) -> Sequence[int]:
    found = node.attributes.get(attribute)
    return found.as_ints() if found is not None else [0] * count


class _Unrolling:
    """Puts the steps of one node before it, and then takes it away."""

    def __init__(self, graph: ir.Graph, node: ir.Node, plan: _Plan) -> None:
        self.graph, self.node, self.plan = graph, node, plan
        self.opset = graph.opset_imports.get("", 1)

    def run(self) -> None:
        plan = self.plan
        states = list(plan.states)
        results: list[list[ir.Value]] = []
        for step in range(plan.steps):
            made = self._step(step, states)
            after, rest = made[: len(states)], made[len(states) :]
            results.append(rest)
            states = after if plan.counted else [self._either(step, *pair) for pair in zip(states, after, strict=True)]
        whole = [
            self._together(index, [each[index] for each in (reversed(results) if turned else results)], axis)
            for index, (axis, turned) in enumerate(zip(plan.axes, plan.reversed, strict=True))
        ]
        for output, value in zip(list(self.node.outputs), [*states, *whole], strict=True):
            if not output.uses() and not output.is_graph_output():
                continue
            name, output.name = output.name, None
            copy = self._add("Identity", [value], f"{self.node.name}/result/{output.index()}")
            copy.type, copy.shape = output.type, output.shape
            output.replace_all_uses_with(copy, replace_graph_outputs=True)
            copy.name = name
        self.graph.remove(self.node, safe=True)

    def _step(self, step: int, states: Sequence[ir.Value]) -> list[ir.Value]:
        """One run of the body: the new states, then the other outputs."""
        prefix, plan = f"{self.node.name}/{step}", self.plan
        body = plan.body.clone(allow_outer_scope_values=True)
        for node in body.all_nodes():
            node.name = f"{prefix}/{node.name}"
            for value in node.outputs:
                value.name = f"{prefix}/{value.name}" if value.name else value.name
        given = list(states)
        if plan.counted:
            given = [self._number(step, f"{prefix}/step"), self._number(value=True, name=f"{prefix}/going"), *states]
        for index, ((value, axis), turned) in enumerate(zip(plan.scanned, plan.turned, strict=True)):
            at = self._number(plan.steps - 1 - step if turned else step, f"{prefix}/at/{index}")
            given.append(self._add("Gather", [value, at], f"{prefix}/taken/{index}", axis=axis))
        for formal, actual in zip(list(body.inputs), given, strict=True):
            formal.replace_all_uses_with(actual, replace_graph_outputs=True)
        made = list(body.outputs)[1 if plan.counted else 0 :]
        body.outputs.clear()
        nodes = list(body)
        body.remove(nodes)
        self.graph.insert_before(self.node, nodes)
        return made

    def _either(self, step: int, before: ir.Value, after: ir.Value) -> ir.Value:
        """The state after a step, as a choice between it and the state before."""
        name = f"{self.node.name}/{step}/state/{after.name}"
        branches = {}
        for branch, value in (("then_branch", after), ("else_branch", before)):
            copy = ir.node("Identity", [value], name=f"{name}/{branch}")
            copy.outputs[0].name = f"{name}/{branch}/passed"
            copy.outputs[0].type = after.type or before.type
            branches[branch] = ir.Graph([], copy.outputs, nodes=[copy], name=f"{name}/{branch}")
        choice = ir.node("If", [self._number(value=True, name=f"{name}/taken")], attributes=branches, name=name)
        choice.outputs[0].name = f"{name}/output"
        self.graph.insert_before(self.node, choice)
        return choice.outputs[0]

    def _together(self, index: int, values: Sequence[ir.Value], axis: int) -> ir.Value:
        name = f"{self.node.name}/gathered/{index}"
        if self.opset >= 13:  # the opset in which axes became an input
            at, given = [self._number([axis], f"{name}/axis")], {}
        else:
            at, given = [], {"axes": [axis]}
        parts = [self._add("Unsqueeze", [value, *at], f"{name}/{step}", **given) for step, value in enumerate(values)]
        return self._add("Concat", parts, name, axis=axis)

    def _add(self, operator: str, inputs: Sequence[ir.Value], name: str, **attributes: int | list[int]) -> ir.Value:
        node = ir.node(operator, inputs, attributes=attributes, name=name)
        node.outputs[0].name = f"{name}/output"
        self.graph.insert_before(self.node, node)
        return node.outputs[0]

    def _number(self, value: Any, name: str) -> ir.Value:
        array = np.asarray(value)
        array = array if array.dtype == np.bool_ else array.astype(np.int64)
        constant = ir.val(name, const_value=ir.Tensor(array, name=name))
        self.graph.initializers.add(constant)
        return constant
