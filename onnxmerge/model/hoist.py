"""Hoisting: what the branches of an If compute, brought into the graph around it, so that it can be traced and typed.

A body is a function of what it captures, so its nodes may as well stand before the If, which then only chooses between
finished values. The result computes the same as long as both branches can be computed; a branch that cannot (a Squeeze
of an axis that is not 1 in this sample) stays where it is. The hoisted network serves to look at the model: it is never
written, since it computes what the model skips.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import islice

import onnx_ir as ir

from onnxmerge.errors import InputError
from onnxmerge.model.network import Network
from onnxmerge.model.sample import plausible_samples
from onnxmerge.model.trace import Trace, trace
from onnxmerge.model.unroll import unroll
from onnxmerge.types import Array

Branch = tuple[str, str]
"""The name of an If node, and the attribute that holds the body."""

_BRANCHES = ("then_branch", "else_branch")
_FAILED_NODE = re.compile(r"Name:'([^']*)'|Node \((.*?)\) Op \(")


MOST_SAMPLES = 10
"""How many other samples are tried where a branch with weights cannot be computed on the first."""


def trace_inside(network: Network, sample: Mapping[str, Array] | None = None) -> Trace:
    """Trace a network with loops unrolled and branches of Ifs hoisted where the sample allows.

    Where no sample is given and a branch that has weights cannot be computed on the one that was found (it is for
    another sampling rate), others are tried. A network without bodies is traced as it is. See ``trace`` for errors.
    """
    found = trace(network, sample)
    unrolled = unroll(network, found)
    if unrolled is not network:
        network, found = unrolled, trace(unrolled, found.sample)
        sample = found.sample
    best = _hoist_what_runs(network, found.sample) or found
    missing = _weights_left(best.network)
    others = islice(plausible_samples(network), MOST_SAMPLES) if sample is None and missing else ()
    for feeds in others:
        better = _hoist_what_runs(network, feeds, below=missing)
        if better is not None:
            best, missing = better, _weights_left(better.network)
        if not missing:
            break
    return best


def _hoist_what_runs(network: Network, sample: Mapping[str, Array], below: float = math.inf) -> Trace | None:
    """Leave one branch after another where it is, until the rest can be computed; None if nothing is hoisted then.

    Also None as soon as the branches that are left hold no fewer than ``below`` elements of weights.
    """
    left: set[Branch] = set()
    while any(_is_if(node) for node in network.graph):
        hoisted, origins = hoist(network, left)
        if not origins or _weights_left(hoisted) >= below:
            return None
        try:
            return trace(hoisted, sample)
        except InputError as error:
            culprit = origins.get(_failed_node(str(error)))
            if culprit is None:
                return None
            left.add(culprit)
    return None


def _weights_left(network: Network) -> int:
    """How many elements of float initializers are read inside the branches of an If."""
    read = {value for node in network.graph if _is_if(node) for value in captured_values(node)}
    tensors = [value.const_value for value in read if value.is_initializer() and value.const_value is not None]
    return sum(tensor.size for tensor in tensors if tensor.dtype.is_floating_point() and tensor.size > 1)


def _failed_node(message: str) -> str:
    """The node that ONNX Runtime's message names; empty if it names none."""
    match = _FAILED_NODE.search(message)
    return next((name for name in match.groups() if name is not None), "") if match else ""


def hoist(network: Network, left: Collection[Branch] = ()) -> tuple[Network, dict[str, Branch]]:
    """A copy of a network with the nodes of all branches but ``left`` in the main graph, each before its If.

    Also the branch that each hoisted node comes from, by the node's name. Values and initializers keep their names.
    """
    model = network.model.clone()
    origins: dict[str, Branch] = {}
    waiting = [node for node in model.graph if _is_if(node)]
    while waiting:
        choice = waiting.pop()
        for name in _BRANCHES:
            branch = (str(choice.name), name)
            if branch in left:
                continue
            moved = _move_out(choice, choice.attributes[name].as_graph(), name)
            origins.update((str(node.name), branch) for node in moved)
            waiting.extend(node for node in moved if _is_if(node))
    return replace(network, model=model), origins


def passed_values(body: ir.Graph) -> list[ir.Value] | None:
    """What a body gives of its surroundings, output by output, where it does nothing else; else None."""
    if any(node.op_type != "Identity" or node.domain for node in body):
        return None
    inside = {id(node) for node in body}
    found: list[ir.Value] = []
    for value in body.outputs:
        node = value.producer()
        copied = node.inputs[0] if node is not None and id(node) in inside else None
        if copied is None or (copied.producer() is not None and id(copied.producer()) in inside):
            return None
        found.append(copied)
    return found


def captured_values(node: ir.Node) -> Iterator[ir.Value]:
    """The values of outer graphs that the bodies of a node read, at any depth."""
    for body in bodies(node):
        inside = {id(value) for inner in body.all_nodes() for value in inner.outputs}
        for graph in (body, *body.subgraphs()):
            inside |= {id(value) for value in (*graph.inputs, *graph.initializers.values())}
        read = [value for inner in body.all_nodes() for value in inner.inputs if value is not None]
        given = [value for graph in (body, *body.subgraphs()) for value in graph.outputs]
        yield from (value for value in (*read, *given) if id(value) not in inside)


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs among a node's attributes."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def _is_if(node: ir.Node) -> bool:
    return node.op_type == "If" and not node.domain


def _move_out(choice: ir.Node, body: ir.Graph, name: str) -> list[ir.Node]:
    """Move a body's nodes before the If; what is left of the body hands their results on."""
    around = choice.graph
    moved = list(body)
    if around is None or not moved:
        return []
    body.remove(moved)
    around.insert_before(choice, moved)
    for index, value in enumerate(body.outputs):
        copy = ir.node("Identity", [value], name=f"{choice.name}/{name}/{index}")
        copy.outputs[0].name = f"{choice.name}/{name}/{index}/passed"
        copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
        body.append(copy)
        body.outputs[index] = copy.outputs[0]
    return moved
