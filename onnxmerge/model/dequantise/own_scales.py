"""The quantised network with a scale and a zero point of its own for each that has one.

Exporters store equal tensors once. A scale that two weights share by chance must not stay one, since other weights have
other scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import onnx_ir as ir

from onnxmerge.model.dequantise.operands import input_of, is_initializer, refusal
from onnxmerge.model.names import UniqueNames
from onnxmerge.model.network import Network


@dataclass(frozen=True, slots=True)
class Quantiser:
    """What rounds activations, known by the initializers of its scale and its zero point (None: 0) together.

    One scale may go with zero points of several activations.
    """

    scale: str
    zero: str | None


Owner: TypeAlias = str | Quantiser
"""Whose a scale is: a weight's or a bias's, by its name, or that of quantised activations."""


@dataclass(frozen=True, slots=True)
class ScaleUse:
    """A scale or a zero point where it is read: operand ``place`` of the node of this name."""

    node: str
    place: int
    owner: Owner


class OwnScales:
    """A copy of a network in which each of ``uses`` reads initializers of its owner's own.

    Raises InputError for an operand that belongs to two owners.
    """

    def __init__(self, network: Network, names: UniqueNames, uses: Sequence[ScaleUse]) -> None:
        self.network = replace(network, model=network.model.clone())
        self._nodes = {str(node.name): node for node in self.network.graph}
        self._names = names
        self._owned: dict[str, dict[Owner | None, str]] = {}
        """By initializer as it was stored: what each of its owners has in its place. The first keeps it.

        None stands for those who read it as a number, which no scale may change.
        """
        self._owners: dict[tuple[str, int], Owner] = {}
        """By node and operand: whose that is."""
        self._keep_numbers({(use.node, use.place) for use in uses})
        for use in uses:
            self._part(use)

    def of(self, initializer: str, owner: Owner) -> str:
        """What ``owner`` has in place of an initializer."""
        return self._owned.get(initializer, {}).get(owner, initializer)

    def read_by(self, node: str, place: int) -> str:
        """The initializer that is an operand by now; "" where there is none."""
        value = input_of(self._nodes[node], place)
        return "" if value is None else str(value.name)

    def _keep_numbers(self, places: set[tuple[str, int]]) -> None:
        for name, value in self.network.graph.initializers.items():
            if value.is_graph_output() or any((str(node.name), place) not in places for node, place in value.uses()):
                self._owned[name] = {None: name}

    def _part(self, use: ScaleUse) -> None:
        node = self._nodes[use.node]
        value = input_of(node, use.place)
        if value is None or not is_initializer(value):
            return
        if self._owners.setdefault((use.node, use.place), use.owner) != use.owner:
            raise refusal(self.network, node, "multiplies by one scale what two weights give")
        name = str(value.name)
        owned = self._owned.setdefault(name, {})
        if use.owner not in owned:
            owned[use.owner] = self._copied(value, f"{name}/{len(owned)}") if owned else name
        node.replace_input_with(use.place, self.network.graph.initializers[owned[use.owner]])

    def _copied(self, value: ir.Value, wanted: str) -> str:
        """The name of another initializer that holds the same."""
        name = self._names.fresh(wanted)
        own = ir.Value(name=name, type=value.type, shape=value.shape, const_value=value.const_value)
        self.network.graph.register_initializer(own)
        return name
