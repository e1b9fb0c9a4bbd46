"""What is noted of a quantised network while it is taken apart, and the scheme that comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxmerge.model.dequantise.own_scales import Owner, OwnScales, Quantiser, ScaleUse
from onnxmerge.model.names import UniqueNames
from onnxmerge.model.network import Network
from onnxmerge.model.scheme import CodedActivation, CodedBias, CodedWeight, Scheme

Place = tuple[str, int]
"""An operand: the name of its node, and which."""


@dataclass(frozen=True, slots=True, eq=False)
class _Bias:
    """A bias, and the operands that are the scales of the activation and the weight whose product it is added to."""

    known: CodedBias
    factors: tuple[Place, Place]


class Notes:
    """Collects the weights, biases and quantisers of one network, and where their scales and zero points are read."""

    def __init__(self) -> None:
        self._weights: dict[str, CodedWeight] = {}
        """By name."""
        self._biases: dict[str, _Bias] = {}
        """By name."""
        self._agreeing: dict[Quantiser, Quantiser] = {}
        """All quantisers, as trees of those that must agree: by each the next towards the root, which has itself."""
        self._dtypes: dict[Quantiser, np.dtype[np.generic]] = {}
        """The type of the codes that each rounds to."""
        self._activations: dict[Quantiser, list[ir.Value]] = {}
        """The float activations that each rounds."""
        self._uses: list[ScaleUse] = []
        """Operands that are a scale or a zero point, in order: the first owner of an initializer keeps it."""
        self._kinds: dict[str, None] = {}
        """The operators that say how the network is quantised, in order."""

    # Who there is

    def add_weight(self, weight: CodedWeight) -> None:
        self._weights[weight.name] = weight

    def add_bias(self, bias: CodedBias, factors: tuple[Place, Place]) -> None:
        """A bias, and the operands that are the scales of its activation and of its weight."""
        self._biases[bias.name] = _Bias(bias, factors)

    def add_quantiser(self, quantiser: Quantiser, dtype: np.dtype[np.generic]) -> None:
        """What rounds to codes of a type."""
        self._agreeing.setdefault(quantiser, quantiser)
        self._dtypes[quantiser] = dtype

    def add_activation(self, quantiser: Quantiser, activation: ir.Value) -> None:
        """A float activation that a quantiser rounds."""
        self._activations.setdefault(quantiser, []).append(activation)

    def add_kind(self, operator: str) -> None:
        """An operator that says how the network is quantised."""
        self._kinds[operator] = None

    # What belongs together

    def add_scale(self, owner: Owner, node: ir.Node, place: int) -> None:
        """Operand ``place`` of a node, a scale, belongs to ``owner``, and so does the zero point behind it."""
        self.add_use(owner, node, place)
        self.add_use(owner, node, place + 1)

    def add_use(self, owner: Owner, node: ir.Node, place: int) -> None:
        """Operand ``place`` of a node, a scale or a zero point, belongs to ``owner``."""
        self._uses.append(ScaleUse(str(node.name), place, owner))

    def agree(self, one: Quantiser, other: Quantiser) -> None:
        """Two quantisers have one scale and one zero point, since integers go from one to the other."""
        self._agreeing[self._root(one)] = self._root(other)

    def dtype(self, quantiser: Quantiser) -> np.dtype[np.generic]:
        """The type of the codes that a quantiser rounds to."""
        return self._dtypes[quantiser]

    def _root(self, quantiser: Quantiser) -> Quantiser:
        while self._agreeing[quantiser] != quantiser:
            quantiser = self._agreeing[quantiser]
        return quantiser

    # What comes of it

    def scheme(self, network: Network, floats: Iterable[str], names: UniqueNames) -> Scheme:
        """The scheme of ``network``, the quantised one; ``floats`` are the initializers of its float form.

        Scales that are shared by chance are parted in a copy. Raises InputError where one operand is the scale of two
        weights.
        """
        uses = [
            replace(use, owner=self._root(use.owner)) if isinstance(use.owner, Quantiser) else use for use in self._uses
        ]
        own = OwnScales(network, names, uses)
        return Scheme(
            own.network,
            tuple(self._parted_weight(weight, own) for weight in self._weights.values()),
            tuple(self._parted_bias(bias, own) for bias in self._biases.values()),
            tuple(self._coded_activation(root, alike, own) for root, alike in self._alike().items()),
            frozenset(floats),
            tuple(self._kinds),
        )

    def _parted_weight(self, weight: CodedWeight, own: OwnScales) -> CodedWeight:
        zero = None if weight.zero is None else own.of(weight.zero, weight.name)
        return replace(weight, scale=own.of(weight.scale, weight.name), zero=zero)

    def _parted_bias(self, bias: _Bias, own: OwnScales) -> CodedBias:
        known = bias.known
        activation, weight = (own.read_by(*place) for place in bias.factors)
        scale = None if known.scale is None else own.of(known.scale, known.name)
        return replace(known, activation=activation, weight=weight, scale=scale)

    def _alike(self) -> dict[Quantiser, list[Quantiser]]:
        """The quantisers that must agree, by their root, which is one of them."""
        found: dict[Quantiser, list[Quantiser]] = {root: [] for root, own in self._agreeing.items() if root == own}
        for quantiser in self._agreeing:
            found[self._root(quantiser)].append(quantiser)
        return found

    def _coded_activation(self, root: Quantiser, alike: Sequence[Quantiser], own: OwnScales) -> CodedActivation:
        scales = dict.fromkeys(own.of(each.scale, root) for each in alike)
        zeros = dict.fromkeys(own.of(each.zero, root) for each in alike if each.zero is not None)
        values = dict.fromkeys(str(value.name) for each in alike for value in self._activations.get(each, ()))
        return CodedActivation(tuple(scales), tuple(zeros), tuple(values), self._dtypes[root])
