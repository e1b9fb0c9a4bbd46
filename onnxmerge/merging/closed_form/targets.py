"""What each linear layer of a merged network should aim at, and in which order layers are solved.

A layer aims at its own output, with a BatchNormalization right behind it counted as part of the layer. One that
writes onto a stream, because all that reads its output is an Add with a tensor of the same shape, aims at the sum.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from onnxmerge.activations.patches import Form, form_of
from onnxmerge.activations.segments import blocked
from onnxmerge.errors import StructureError
from onnxmerge.merging.closed_form.norms import Norm, norm_of
from onnxmerge.model.linear_layers import LinearLayer, linear_layers, readers
from onnxmerge.model.traits import has
from onnxmerge.types import Positions
from onnxmerge.units.alignment import axis_orders
from onnxmerge.units.layout import Typing


@dataclass(frozen=True, slots=True, eq=False)
class LayerTarget:
    """One layer to solve: from the tensor ``source`` to ``tensor``, less ``shortcut`` where there is one.

    ``node`` is the layer's operator, ``output`` what it gives, behind its ``norm`` if it has one. ``last`` says that
    the target is an output of the network.
    """

    layer: LinearLayer
    form: Form
    node: ir.Node
    source: str
    output: str
    tensor: str
    norm: Norm | None = None
    shortcut: str | None = None
    last: bool = False

    @property
    def axis(self) -> int:
        """The axis of the layer's units in its output and in its target."""
        return self.layer.channel_axis

    @property
    def biased(self) -> bool:
        """Whether the layer can shift its units."""
        return self.layer.bias is not None or self.norm is not None

    @property
    def features(self) -> int:
        """How many numbers each output unit is computed from."""
        weight = self.node.inputs[1]
        size = int(np.prod(weight.shape.numpy())) if weight is not None and weight.shape is not None else 0
        return size // max(self.layer.units, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Settling:
    """A BatchNormalization that belongs to no layer: its statistics are to be taken anew of the tensor ``source``."""

    node: ir.Node
    source: str
    norm: Norm

    @property
    def tensor(self) -> str:
        """What the BatchNormalization gives."""
        return str(self.node.outputs[0].name)


Step: TypeAlias = LayerTarget | Settling


def plan_targets(graph: ir.Graph, typing: Typing) -> tuple[list[Step], list[str]]:
    """What to solve, in an order in which that can be done, and a note for each layer that stays as it is."""
    layers, notes = plan_layers(graph, typing)
    values = {str(value.name): value for node in graph for value in node.outputs}
    counts = readers(graph)
    found = [_with_shortcut(_with_norm(target, values[target.output], counts), values, typing) for target in layers]
    steps: list[Step] = [
        replace(target, last=_passed(values[target.tensor]).is_graph_output()) for target in _parted(found)
    ]
    steps.extend(_settlings(graph, counts, {target.norm for target in found if target.norm is not None}, notes))
    return _ordered(graph, steps, values), notes


def plan_layers(graph: ir.Graph, typing: Typing) -> tuple[list[LayerTarget], list[str]]:
    """Each linear layer by itself, with its own output for a target, and a note for each that stays as it is."""
    layers, notes = linear_layers(graph)
    values = {str(value.name): value for node in graph for value in node.outputs}
    found: list[LayerTarget] = []
    for layer in layers:
        node = _operator(values[layer.output], layer)
        form = form_of(node, layer)
        source = node.inputs[0]
        if form is None or source is None or layer.output not in typing.activations:
            notes.append(f"{layer.node}: {node.op_type} is not solved anew; it stays the average")
            continue
        found.append(LayerTarget(layer, form, node, str(source.name), layer.output, layer.output))
    return found, notes


def input_orders(
    target: LayerTarget, typing: Typing, perms: Sequence[Mapping[str, Positions]]
) -> Sequence[Mapping[int, Positions]] | None:
    """For each parent, how what its layer reads is reordered, axis by axis; None where axes alone cannot do it."""
    layout = typing.activations.get(target.source)
    orders = [{} if layout is None else axis_orders(layout, typing, order) for order in perms]
    known = [order for order in orders if order is not None]
    return known if len(known) == len(orders) else None


def _settlings(
    graph: ir.Graph, counts: Mapping[str, int], taken: Collection[Norm], notes: list[str]
) -> Iterator[Settling]:
    for node in graph:
        if node.op_type != "BatchNormalization" or node.inputs[0] is None:
            continue
        norm = norm_of(node, counts)
        if norm is None:
            notes.append(f"{node.name}: has not statistics of its own, so they stay the average")
        elif norm not in taken:
            yield Settling(node, str(node.inputs[0].name), norm)


def _operator(output: ir.Value, layer: LinearLayer) -> ir.Node:
    """The layer's operator: what makes its output, or feeds the Add of a bias that does."""
    node = output.producer()
    if node is not None and node.op_type == "Add":
        makers = [value.producer() for value in node.inputs if value is not None]
        node = next((maker for maker in makers if maker is not None and has(maker, "linear_layer")), None)
    if node is None:
        raise StructureError(f"{layer.node}: nothing makes its output {layer.output}; report the model")
    return node


def _with_norm(target: LayerTarget, value: ir.Value, counts: Mapping[str, int]) -> LayerTarget:
    """The target with the BatchNormalization that is all that reads the layer, if its initializers are its own."""
    reader = _only_reader(value)
    if reader is None or reader.op_type != "BatchNormalization" or reader.inputs[0] is not value:
        return target
    norm = norm_of(reader, counts)
    output = str(reader.outputs[0].name)
    return target if norm is None else replace(target, norm=norm, output=output, tensor=output)


def _with_shortcut(target: LayerTarget, values: Mapping[str, ir.Value], typing: Typing) -> LayerTarget:
    value = _passed(values[target.output])
    reader = _only_reader(value)
    if reader is None or reader.op_type != "Add":
        return target
    one, other = reader.inputs
    other = other if one is value else one
    names = [str(each.name) for each in (value, other, reader.outputs[0]) if each is not None]
    layouts = [typing.activations.get(name) for name in names]
    shapes = {layout.shape if layout is not None else None for layout in layouts}
    if other is None or other is value or other.is_initializer() or len(shapes) > 1 or None in shapes:
        return target
    return replace(target, tensor=names[2], shortcut=names[1])


def _parted(targets: Sequence[LayerTarget]) -> list[LayerTarget]:
    """Of layers that meet in one Add, the one with the most features makes up for the others, left to themselves."""
    widest: dict[str, LayerTarget] = {}
    for target in targets:
        best = widest.get(target.tensor)
        if best is None or target.features > best.features:
            widest[target.tensor] = target
    return [
        target if widest[target.tensor] is target else replace(target, tensor=target.output, shortcut=None)
        for target in targets
    ]


def _ordered(graph: ir.Graph, steps: Sequence[Step], values: Mapping[str, ir.Value]) -> list[Step]:
    """Each step after all that its input and its shortcut depend on, else in the graph's order."""
    import networkx as nx

    places = {node: index for index, node in enumerate(graph)}
    steps = sorted(steps, key=lambda step: places[step.node])
    order: nx.DiGraph[int] = nx.DiGraph()
    order.add_nodes_from(range(len(steps)))
    for index, step in enumerate(steps):
        behind = blocked(graph, {step.node})
        for later, other in enumerate(steps):
            shortcut = (
                values.get(other.shortcut) if isinstance(other, LayerTarget) and other.shortcut is not None else None
            )
            made = shortcut.producer() if shortcut is not None else None
            if later != index and (other.node in behind or made in behind):
                order.add_edge(index, later)
    return [steps[index] for index in nx.lexicographical_topological_sort(order)]


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0][0] if len(uses) == 1 and not value.is_graph_output() else None


def _passed(value: ir.Value) -> ir.Value:
    """The value behind Identity and Dropout, as far as nothing else reads it."""
    while True:
        reader = _only_reader(value)
        if reader is None or not has(reader, "inert"):
            return value
        value = reader.outputs[0]
