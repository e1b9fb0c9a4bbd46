"""A quantised network on its way to its float form: which of its integers stand for which floats so far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxmerge.errors import InputError
from onnxmerge.model.codes import Form, Plain, is_codes
from onnxmerge.model.dequantise.bounds import Bound, Bounds, bound_key, bound_of, put_back
from onnxmerge.model.dequantise.float_graph import FloatGraph
from onnxmerge.model.dequantise.notes import Notes, Place
from onnxmerge.model.dequantise.operands import (
    Operand,
    array_of,
    dtype_of,
    input_of,
    integer_of,
    is_initializer,
    refusal,
    shape_of,
    tensor_of,
    zeros_of,
)
from onnxmerge.model.dequantise.own_scales import Owner, Quantiser
from onnxmerge.model.network import Network
from onnxmerge.model.scheme import CodedBias, CodedWeight
from onnxmerge.types import Array

_TYPES = {kind.value for kind in ir.DataType}
"""The numbers of the types that ONNX knows."""


@dataclass(frozen=True, slots=True, eq=False)
class Integers:
    """What a tensor of integers stands for: its float twin, by this scale and zero point.

    ``owner`` is whose the scale is: that of the weight that it is a part of, or of the first that rounded an activation
    so. None where scale and zero point are computed. ``form`` says how the codes of a weight lie in the tensor.
    """

    floats: ir.Value
    scale: ir.Value
    zero: ir.Value | None
    owner: Owner | None
    form: Plain | None = None

    @property
    def is_weight(self) -> bool:
        return isinstance(self.owner, str)

    @property
    def is_computed(self) -> bool:
        """Whether scale and zero point are."""
        return self.owner is None


class Translation:
    """Takes one network apart, node by node. ``network`` stays as it is; ``model``, a copy, becomes the float form.

    ``bounds`` are those to be put back; where None, the network's own.
    """

    def __init__(self, network: Network, model: ir.Model, bounds: Bounds | None) -> None:
        self.network = network
        self.originals = {str(node.name): node for node in network.graph}
        """The nodes of ``network`` by name."""
        self.graph = FloatGraph(model)
        self.notes = Notes()
        self.integers: dict[ir.Value, Integers] = {}
        """The tensors of integers that are known so far."""
        self.replaced: list[ir.Value] = []
        """Initializers of integers that have float twins of their names; nobody may read them in the end."""
        self.bounds: dict[str, Bound] = {}
        """The network's own bounds."""
        self._given = bounds
        self._weights: dict[str, tuple[Integers, Form]] = {}
        """Initializers that are weights, by name, and how their codes lie."""

    def refusal(self, node: ir.Node, why: str) -> InputError:
        """What is raised for a node that has no float form."""
        return refusal(self.network, node, why)

    # What a node reads

    def value(self, node: ir.Node, place: int) -> ir.Value:
        """What a node must read at a place."""
        value = input_of(node, place)
        if value is None:
            raise self.refusal(node, "lacks an operand")
        return value

    def operand(self, node: ir.Node, place: int) -> Operand:
        """A tensor, its scale and its zero point: operands ``place`` and the next two."""
        value = self.value(node, place)
        known = self.integers.get(value)
        scale, zero = self.scale(node, place + 1, computed=known is not None and known.is_computed)
        return Operand(value, scale, zero)

    def scale(self, node: ir.Node, place: int, *, computed: bool = False) -> tuple[ir.Value, ir.Value | None]:
        """A scale and a zero point, operands ``place`` and the next, initializers unless they may be ``computed``."""
        scale, zero = input_of(node, place), input_of(node, place + 1)
        if scale is None:
            raise self.refusal(node, "lacks a scale")
        if not computed and not (is_initializer(scale) and (zero is None or is_initializer(zero))):
            raise self.refusal(node, "has a scale or a zero point that is computed")
        return scale, zero

    def codes(self, node: ir.Node, value: ir.Value) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
        """The shape and the type of codes that are stored."""
        if not is_initializer(value) or not is_codes(dtype_of(value)):
            raise self.refusal(node, "reads integers that nothing in the model quantises")
        return shape_of(value), dtype_of(value)

    def code_type(self, node: ir.Node, zero: ir.Value | None) -> np.dtype[np.generic]:
        """The type of the codes that a node rounds to."""
        told = integer_of(node, "output_dtype") or ir.DataType.UINT8.value
        if zero is None and told not in _TYPES:
            raise self.refusal(node, f"rounds to a type of number {told}, which there is not")
        found = dtype_of(zero) if zero is not None else ir.DataType(told).numpy()
        if not is_codes(found):
            raise self.refusal(node, f"rounds to {found}")
        return found

    # What integers stand for

    def rounded(self, node: ir.Node, place: int, value: ir.Value, dtype: np.dtype[np.generic]) -> Integers:
        """An activation that ``node`` rounds by the scale and zero point from operand ``place`` on."""
        scale, zero = self.scale(node, place)
        if array_of(scale).size != 1:
            raise self.refusal(node, "has a scale along an axis for an activation")
        if (count := zeros_of(zero).size) != 1:
            raise self.refusal(node, f"has {count} zero points for an activation")
        quantiser = self._quantiser(node, place, scale, zero, dtype)
        key, own = bound_key(value, scale), bound_of(scale, zero, dtype)
        self.bounds[key] = own
        floats = put_back(self.graph, node, value, scale, own if self._given is None else self._given.get(key, own))
        self.notes.add_activation(quantiser, floats)
        return Integers(floats, scale, zero, quantiser)

    def read(self, node: ir.Node, place: int) -> Integers:
        """An operand (tensor, scale, zero point) that stands for floats already, by the scale that it has."""
        operand = self.operand(node, place)
        known = self.integers[operand.value]
        alike = operand.scale is known.scale and operand.zero is known.zero
        if not known.is_computed:
            alike = np.array_equal(array_of(operand.scale).reshape(-1), array_of(known.scale).reshape(-1))
            alike = alike and np.array_equal(zeros_of(operand.zero), zeros_of(known.zero))
        if not alike:
            raise self.refusal(node, "reads integers by another scale than they were rounded by")
        if isinstance(known.owner, str):
            self.notes.add_scale(known.owner, node, place + 1)
        elif known.owner is not None:
            dtype = self.notes.dtype(known.owner)
            self.notes.agree(self._quantiser(node, place + 1, operand.scale, operand.zero, dtype), known.owner)
        return known

    def _quantiser(
        self, node: ir.Node, place: int, scale: ir.Value, zero: ir.Value | None, dtype: np.dtype[np.generic]
    ) -> Quantiser:
        """Note what rounds activations, or restores them; operand ``place`` of a node is its scale."""
        found = Quantiser(str(scale.name), None if zero is None else str(zero.name))
        self.notes.add_quantiser(found, dtype)
        self.notes.add_scale(found, node, place)
        return found

    # Weights and biases

    def weight(
        self, node: ir.Node, operand: Operand, form: Form, *, place: int | None = None, stored: bool = True
    ) -> Integers:
        """An initializer as a weight; its scale is operand ``place`` of ``node``, if that is said.

        It is ``stored`` as codes, or as floats that are rounded when the network runs.
        """
        value, scale, zero = operand.value, operand.scale, operand.zero
        if stored:
            self.codes(node, value)
        if isinstance(form, Plain) and zeros_of(zero).size not in {1, array_of(scale).size}:
            raise self.refusal(node, f"has {zeros_of(zero).size} zero points and {array_of(scale).size} scales")
        name = str(value.name)
        if place is not None:
            self.notes.add_scale(name, node, place)
        if name in self._weights:
            known, lies = self._weights[name]
            alike = np.array_equal(array_of(scale), array_of(known.scale))
            if not alike or form != lies or not np.array_equal(zeros_of(zero), zeros_of(known.zero)):
                raise self.refusal(node, f"reads {name!r} by another scale than another node does")
            return known
        coded = CodedWeight(
            name, name if stored else None, str(scale.name), None if zero is None else str(zero.name), form
        )
        self.notes.add_weight(coded)
        floats = self._decoded(value, scale, coded, form.shape) if stored else value
        found = Integers(floats, scale, zero, name, form if isinstance(form, Plain) else None)
        self._weights[name] = found, form
        return found

    def bias(self, value: ir.Value, scale: ir.Value, coded: CodedBias, factors: tuple[Place, Place]) -> ir.Value:
        """The float twin of a bias, of the type that ``scale`` has; ``factors`` are the scales that make its own."""
        self.notes.add_bias(coded, factors)
        return self._decoded(value, scale, coded, shape_of(value))

    def _decoded(
        self, value: ir.Value, scale: ir.Value, coded: CodedWeight | CodedBias, shape: tuple[int, ...]
    ) -> ir.Value:
        """The float initializer for one of integers, computed when it is read; its name is free, as that one goes."""
        weights, dtype = self.network.weights, tensor_of(scale).dtype

        def decode() -> ir.TensorProtocol:
            return ir.Tensor(_contiguous(coded.decoded(weights)), dtype=dtype, name=coded.name)

        self.replaced.append(value)
        return self.graph.replace_initializer(value, ir.LazyTensor(decode, dtype, ir.Shape(shape), name=coded.name))


def _contiguous(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(array.shape)  # which would make a scalar a vector
