"""The scheme of a quantised network: which of its initializers stand for what in the float network that it stands for.

What ``dequantised`` takes apart is noted here, and ``requantised`` puts other weights into the same places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxmerge.errors import InputError
from onnxmerge.model.codes import KEPT, Blocks, Form, coded, limits
from onnxmerge.model.network import Network, Weights
from onnxmerge.types import Array, Arrays

MOST = 2.0**31 - 2.0**8
"""The greatest code of a bias, less what scales are rounded by."""

Range = tuple[float, float]
"""The least and the greatest value of an activation."""


@dataclass(frozen=True, slots=True, eq=False)
class CodedWeight:
    """A float initializer ``name``, and the initializers of the quantised network that stand for it.

    ``codes`` is None where the quantised network has the floats too, and rounds them as it runs.
    """

    name: str
    codes: str | None
    scale: str
    zero: str | None
    form: Form

    def blocks(self, weights: Weights) -> Blocks:
        """What the quantised network computes with."""
        scale, zero = weights[self.scale], None if self.zero is None else weights[self.zero]
        if self.codes is not None:
            return self.form.read(weights[self.codes], scale, zero)
        numbers = weights[self.name]
        found = self.form.read(np.zeros(numbers.shape, np.int8), scale, zero)
        steps = self.form.split(numbers).astype(np.float64) / found.scale.astype(np.float64)[:, None]
        codes = np.clip(np.rint(steps) + found.zero[:, None], found.least, found.most)
        return Blocks(codes.astype(np.int64), found.scale, found.zero, found.least, found.most)

    def decoded(self, weights: Weights) -> Array:
        """The float weight."""
        return weights[self.name] if self.codes is None else self.form.whole(self.blocks(weights).numbers())

    def encoded(self, numbers: Array, weights: Weights, floor: Array | float = 0.0) -> dict[str, Array]:
        """The initializers that stand for other numbers; ``weights`` are those of the quantised network so far.

        No scale is below ``floor``, [blocks] or one.
        """
        scale, zero = weights[self.scale], None if self.zero is None else weights[self.zero]
        before = self.blocks(weights)
        found = coded(numbers, self.form, before, movable=self.form.movable(scale, zero), name=self.name, floor=floor)
        if found is before:
            return {}
        codes, scale, zero = self.form.write(found, scale, zero)
        if self.codes is None:
            largest = KEPT * np.abs(before.scale.astype(np.float64)).min()
            if np.abs(numbers.astype(np.float64) - weights[self.name]).max(initial=0) <= largest:
                return {}
        stored = {self.name: numbers} if self.codes is None else {self.codes: codes}
        stored[self.scale] = scale
        return stored if self.zero is None or zero is None else {**stored, self.zero: zero}


@dataclass(frozen=True, slots=True, eq=False)
class CodedBias:
    """A bias of 32 bits, whose scale is the product of those of the activation and the weight that it is added to.

    ``scale`` is the initializer that says so, where there is one.
    """

    name: str
    codes: str
    activation: str
    weight: str
    scale: str | None

    def factor(self, weights: Arrays) -> Array:
        """The scale, [1] or [units]."""
        return np.asarray(weights[self.activation] * weights[self.weight]).reshape(-1)

    def decoded(self, weights: Weights) -> Array:
        """The float bias."""
        return (weights[self.codes] * self.factor(weights)).astype(weights[self.activation].dtype)

    def floor(self, numbers: Array, weights: Weights, changed: Arrays) -> Array:
        """The least scale of the weight with which another bias fits into 32 bits, [units].

        A channel that is all but dead has a weight near 0, and often a bias that is not.
        """
        step = changed.get(self.activation, weights[self.activation]).astype(np.float64).reshape(-1)
        return np.abs(numbers.astype(np.float64)).reshape(-1) / (step * MOST)

    def encoded(self, numbers: Array, weights: Weights, changed: Arrays) -> dict[str, Array]:
        """The initializers for another bias, with the scales that ``changed`` has in place of those of ``weights``."""
        now = self.factor({name: changed.get(name, weights[name]) for name in (self.activation, self.weight)})
        before = self.factor(weights)
        if np.array_equal(now, before) and np.array_equal(numbers, self.decoded(weights)):
            return {}
        steps = np.rint(np.asarray(numbers, np.float64) / now.astype(np.float64))
        least, most = limits(np.dtype(np.int32))
        stored = {self.codes: np.clip(steps, least, most).astype(np.int32)}
        if self.scale is not None:
            old = weights[self.scale]
            stored[self.scale] = np.broadcast_to(now, old.size).reshape(old.shape).astype(old.dtype)
        return stored


@dataclass(frozen=True, slots=True, eq=False)
class CodedActivation:
    """Activations that share a scale: the initializers that hold it and its zero point, and the float ``values``."""

    scales: tuple[str, ...]
    zeros: tuple[str, ...]
    values: tuple[str, ...]
    dtype: np.dtype[np.generic]

    @property
    def name(self) -> str:
        """The initializer that holds the scale, or the first of them."""
        return self.scales[0]

    def declared(self, weights: Weights) -> Range:
        """The range that the scale was chosen for."""
        scale, zero = self._now(weights)
        least, most = limits(self.dtype)
        return (least - zero) * scale, (most - zero) * scale

    def is_symmetric(self, weights: Weights) -> bool:
        """Whether the zero point stays where it is: in the middle, or not stored."""
        least, most = limits(self.dtype)
        return not self.zeros or self._now(weights)[1] == (least + most + 1) // 2

    def encoded(self, reach: Range, weights: Weights) -> dict[str, Array]:
        """The initializers for another range."""
        if reach == self.declared(weights):
            return {}
        (scale, zero), (least, most) = self._now(weights), limits(self.dtype)
        low, high = min(reach[0], 0.0), max(reach[1], 0.0)
        if self.is_symmetric(weights):
            below, above = self.declared(weights)
            wide = scale * max(high / above if above else 0.0, low / below if below else 0.0)
        else:
            wide = (high - low) / (most - least)
            zero = int(np.clip(np.rint(least - low / wide), least, most)) if wide else zero
        scales = {name: np.full(weights[name].shape, wide or scale, weights[name].dtype) for name in self.scales}
        return scales | {name: np.full(weights[name].shape, zero, weights[name].dtype) for name in self.zeros}

    def _now(self, weights: Weights) -> tuple[float, int]:
        zero = int(weights[self.zeros[0]].reshape(-1)[0]) if self.zeros else 0
        return float(weights[self.scales[0]].reshape(-1)[0]), zero


@dataclass(frozen=True, slots=True, eq=False)
class Scheme:
    """How a network was quantised. ``network`` is as it was read, but that no scale is shared by chance.

    ``floats`` are the names of the initializers of its float form, ``kinds`` the operators that say how.
    """

    network: Network
    weights: tuple[CodedWeight, ...]
    biases: tuple[CodedBias, ...]
    activations: tuple[CodedActivation, ...]
    floats: frozenset[str]
    kinds: tuple[str, ...]

    @property
    def label(self) -> str:
        """What the network is called."""
        return self.network.label

    @property
    def measured(self) -> tuple[str, ...]:
        """The float activations whose ranges the scales depend on."""
        return tuple(dict.fromkeys(name for each in self.activations for name in each.values))


def untied(scheme: Scheme, floats: ir.Graph) -> Network:
    """The quantised network with initializers of its own for what is several in its float form ``floats`` by now.

    Exporters store equal tensors once, which other networks do not hold equal. Raises InputError where what is several
    in floats is read by one node of the quantised network.
    """
    model = scheme.network.model.clone()
    nodes, initializers = {str(node.name): node for node in model.graph}, model.graph.initializers
    for name, value in floats.initializers.items():
        if name in scheme.floats:
            continue
        for reader, slot in value.uses():
            node = nodes.get(str(reader.name))
            old = node.inputs[slot] if node is not None and slot < len(node.inputs) else None
            if node is None or old is None or old.const_value is None or node.op_type != reader.op_type:
                raise InputError(
                    f"{scheme.label}: initializer {name!r} of the merged model shares its numbers with another in the "
                    "quantised model, so it cannot be quantised as that was; add --output-type float, and quantise the "
                    "result"
                )
            if name not in initializers:
                own = ir.Value(name=name, type=old.type, shape=old.shape, const_value=old.const_value)
                model.graph.register_initializer(own)
            node.replace_input_with(slot, initializers[name])
    return Network(scheme.network.path, model, scheme.network.sha256)


def requantised(scheme: Scheme, floats: ir.Graph, weights: Arrays, ranges: Mapping[str, Range]) -> Network:
    """The quantised network with other weights, given in the float form, and activations of other ranges.

    ``floats`` is the graph that ``weights`` belong to: the float form, with initializers untied perhaps. ``ranges`` are
    by the names of activations; those that it lacks stay.

    Raises InputError for weights that cannot be quantised so.
    """
    own, changed = scheme.network.weights, dict[str, Array]()
    for activation in scheme.activations:
        if activation.name in ranges:
            changed |= activation.encoded(ranges[activation.name], own)
    floors = {bias.weight: bias.floor(weights[bias.name], own, changed) for bias in scheme.biases}
    for weight in scheme.weights:
        least = floors.get(weight.scale, np.zeros(1))
        least = least if least.size == own[weight.scale].size else least.max(initial=0)
        changed |= weight.encoded(weights[weight.name], own, least)
    for bias in scheme.biases:
        changed |= bias.encoded(weights[bias.name], own, changed)
    coded_names = {weight.name for weight in scheme.weights} | {bias.name for bias in scheme.biases}
    network = untied(scheme, floats)
    initializers = network.graph.initializers
    changed |= {name: weights[name] for name in weights if name in initializers and name not in coded_names}
    for name, array in changed.items():
        value = initializers[name]
        dtype = None if value.const_value is None else value.const_value.dtype
        value.const_value = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), dtype=dtype, name=name)
    return network
