"""What training a merged network further needs: each learned tensor by its own name, and what the others are.

Values of initializers are all that a merge changes, so it is trained as its first parent is, if three things hold:

- A parameter that an exporter stored once for two, because they were equal, is two again. Two BatchNormalizations
  whose outputs are added learn one and the same bias; where the merge may set only one, a difference between them ends
  up in a running mean, which is gone as soon as batches are normalised by their own statistics.
- LayerNormalization declares the mean and the deviation that its gradient is computed from (outputs that operator has
  anyway; ONNX Runtime's training asks for them).
- It is told which tensors were learned. Parents that were trained apart differ in those, and are equal in constants
  that an exporter wrote down as if they were weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import onnx_ir as ir
from onnx_ir.convenience import replace_all_uses_with

from onnxmerge.errors import InputError
from onnxmerge.model.arrays import identical, is_floating
from onnxmerge.model.names import name_uniquely
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.structure import passes_on
from onnxmerge.types import Array

ROLES = "onnxmerge.training"
"""Key of the roles in the metadata of what was written, as JSON."""

_STATISTICS = (3, 4)
"""The operands of BatchNormalization that are running statistics."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Names of the initializers that a network reads, in its order, by what training does with them.

    ``learned``: changed by gradients. ``statistics``: running means and variances of BatchNormalization. ``fixed``: the
    same in all parents and in the merge, such as sizes, constants, and layers that nobody trained.
    """

    learned: tuple[str, ...]
    statistics: tuple[str, ...]
    fixed: tuple[str, ...]

    def text(self) -> str:
        """JSON on one line: {"learned": [...], "statistics": [...], "fixed": [...]}."""
        return json.dumps(asdict(self), separators=(",", ":"))


def require_evaluating(network: Network) -> None:
    """Raise InputError for a network that was exported as it trains: its batches' statistics, or chance, decide."""
    for node in network.graph.all_nodes():
        mode = node.attributes.get("training_mode")
        trains = node.op_type == "BatchNormalization" and mode is not None and bool(mode.as_int())
        if node.domain in ("", "ai.onnx") and (trains or (node.op_type == "Dropout" and not passes_on(node))):
            raise InputError(
                f"{network.label}: node {node.name!r} ({node.op_type}) is in training mode, so what the network "
                "computes is not fixed; export it in evaluation mode (model.eval()): whoever trains it switches"
            )


def own_parameters(network: Network) -> Network:
    """The network with an initializer in place of each Identity of a float one that others read too, by its name."""
    model = network.model.clone()
    graph = model.graph
    for node in list(graph):
        origin = node.inputs[0] if node.op_type == "Identity" and node.domain in ("", "ai.onnx") else None
        if origin is None or not origin.is_initializer() or len(origin.uses()) < 2:
            continue
        tensor, copied = origin.const_value, node.outputs[0]
        if tensor is None or not tensor.dtype.is_floating_point() or copied.is_graph_output():
            continue
        own = ir.Value(name=copied.name, type=origin.type, shape=origin.shape, const_value=tensor)
        replace_all_uses_with(copied, own)
        graph.remove(node, safe=True)
        graph.register_initializer(own)
    return replace(network, model=model)


def declaring_moments(network: Network) -> Network:
    """The network with both moments among the outputs of each LayerNormalization."""
    model = network.model.clone()
    for node in model.graph.all_nodes():
        if node.op_type == "LayerNormalization" and node.domain in ("", "ai.onnx") and len(node.outputs) < 3:
            known = len(node.outputs)
            node.resize_outputs(3)
            for value, what in zip(node.outputs[known:], ("mean", "inverse_deviation")[known - 1 :], strict=True):
                value.name = f"{node.outputs[0].name}_{what}"
    name_uniquely(model)
    return replace(network, model=model)


def roles_of(models: ModelSet, merged: Mapping[str, Array]) -> Roles:
    """The roles of the template's initializers, of which ``merged`` has the values in the merged network."""
    graph = models.template.graph
    statistics = {
        str(value.name)
        for node in graph.all_nodes()
        if node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx")
        for value in (node.inputs[place] for place in _STATISTICS)
        if value is not None and value.is_initializer()
    }
    first, *others = models.weights
    learned = {
        name
        for name in first
        if name not in statistics
        and is_floating(first[name].dtype)
        and any(not identical(first[name], own[name]) for own in (*others, merged))
    }
    every = [str(name) for name, value in graph.initializers.items() if value.uses() or value.is_graph_output()]
    return Roles(
        tuple(name for name in every if name in learned),
        tuple(name for name in every if name in statistics),
        tuple(name for name in every if name not in learned and name not in statistics),
    )
