"""The float network that a quantised one stands for, and the scheme by which it was quantised.

Integers have no mean, so parents are taken apart before they are merged: weights become the numbers that their codes
stand for, operators on integers those on floats, and what rounds activations goes. Known are QuantizeLinear and
DequantizeLinear in pairs, QLinearConv, QLinearMatMul and their likes of com.microsoft, dynamic quantisation
(DynamicQuantizeLinear with MatMulInteger or ConvInteger) and MatMulNBits.

What rounds an activation bounds it too. Where its least code stands for 0, quantisers take out the Relu in front; there
it is put back, and where the greatest stands for 6, a Clip at both. Bounds that only come of the calibration data go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxmerge.errors import InputError
from onnxmerge.model.bounded import CLIPPED, is_bounded
from onnxmerge.model.codes import Form, NBits, Plain, is_codes, limits
from onnxmerge.model.network import Network
from onnxmerge.model.quantised import reads_quantised
from onnxmerge.model.scheme import CodedActivation, CodedBias, CodedWeight, Scheme
from onnxmerge.model.signature import STANDARD
from onnxmerge.model.traits import has
from onnxmerge.types import Array

MICROSOFT = "com.microsoft"
CLOSE = 1e-3
"""Relative difference of two scales that are meant to be the same."""
CLIP_READS = 11
"""From this opset on Clip reads its ends."""

Bounds = Mapping[str, tuple[bool, bool]]
"""By float activation and scale: whether its least code stands for 0, and its greatest for CLIPPED."""


@dataclass(frozen=True, slots=True, eq=False)
class Dequantised:
    """A network in floats, and the scheme that it was taken apart by; None where it is as it was read."""

    network: Network
    scheme: Scheme | None = None
    bounds: Bounds = field(default_factory=dict)


def dequantised(networks: Sequence[Network]) -> tuple[Dequantised, ...]:
    """The networks in floats, those that are already as they are.

    Networks that name an activation alike are bounded there alike: 0 is a bound where it is one in all of them, and 6
    where it is in one. Raises InputError for a network that cannot be taken apart, with the node.
    """
    found = [_taken_apart(network, None) if is_quantised(network) else Dequantised(network) for network in networks]
    names = {name for each in found for name in each.bounds}
    joint = {name: _joint([each.bounds[name] for each in found if name in each.bounds]) for name in names}
    return tuple(
        each if all(joint[name] == own for name, own in each.bounds.items()) else _taken_apart(network, joint)
        for network, each in zip(networks, found, strict=True)
    )


def is_quantised(network: Network) -> bool:
    """Whether a network has operators that compute with integers that stand for floats."""
    return any(reads_quantised(node) or node.op_type == "DynamicQuantizeLinear" for node in network.graph.all_nodes())


def _joint(every: Sequence[tuple[bool, bool]]) -> tuple[bool, bool]:
    least = all(low for low, _ in every)
    return least, least and any(high for _, high in every)


def _taken_apart(network: Network, bounds: Bounds | None) -> Dequantised:
    own = replace(network, model=network.model.clone())
    _untie_biases(own.graph)
    return _Dequantiser(own, replace(network, model=own.model.clone()), bounds).run()


def _untie_biases(graph: ir.Graph) -> None:
    """Give each reader a bias of its own: one tensor stands for other numbers where another scale goes with it."""
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.INT32:
            continue
        for number, (node, slot) in enumerate(list(value.uses())):
            if number and reads_quantised(node):
                own = ir.Value(name=f"{name}/{number}", type=value.type, shape=value.shape, const_value=tensor)
                graph.register_initializer(own)
                node.replace_input_with(slot, own)


@dataclass(frozen=True, slots=True, eq=False)
class _Integers:
    """What a tensor of integers stands for: its float twin, by this scale and zero point.

    ``owner`` names who the scale belongs to: the weight that it is a part of, or the first quantiser of an activation
    (by the initializer of its scale). None where scale and zero point are computed.
    """

    floats: ir.Value
    scale: ir.Value
    zero: ir.Value | None
    owner: str | None = None
    is_weight: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Factor:
    """A number that something is multiplied by: operand ``slot`` of ``node``."""

    value: ir.Value
    node: ir.Node
    slot: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a QLinear operator has its operands (tensor, scale, zero point), and its output's scale and zero point.

    ``bias`` is the operand of 32 bits, ``left_out`` the attributes that the float operator has not.
    """

    floats: str
    operands: tuple[int, ...]
    output: int
    bias: int | None = None
    left_out: tuple[str, ...] = ()


_QLINEAR = {
    ("", "QLinearConv"): _Layout("Conv", (0, 3), 6, bias=8),
    ("", "QLinearMatMul"): _Layout("MatMul", (0, 3), 6),
    (MICROSOFT, "QGemm"): _Layout("Gemm", (0, 3), 7, bias=6),
    (MICROSOFT, "QLinearAdd"): _Layout("Add", (0, 3), 6),
    (MICROSOFT, "QLinearMul"): _Layout("Mul", (0, 3), 6),
    (MICROSOFT, "QLinearSigmoid"): _Layout("Sigmoid", (0,), 3),
    (MICROSOFT, "QLinearLeakyRelu"): _Layout("LeakyRelu", (0,), 3),
    (MICROSOFT, "QLinearSoftmax"): _Layout("Softmax", (0,), 3, left_out=("opset",)),
    (MICROSOFT, "QLinearGlobalAveragePool"): _Layout("GlobalAveragePool", (0,), 3, left_out=("channels_last",)),
    (MICROSOFT, "QLinearAveragePool"): _Layout("AveragePool", (0,), 3, left_out=("channels_last",)),
}
_PRODUCTS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}
_BIASED = {"Conv", "Gemm", "ConvTranspose"}
_MOVES = ("reshapes", "takes", "repeats", "joins", "inert")
"""Traits of what moves integers without computing with them."""


class _Dequantiser:
    """Takes one network apart. ``copy`` becomes the float form; ``network`` stays as it is."""

    def __init__(self, network: Network, copy: Network, bounds: Bounds | None) -> None:
        self.network, self.copy, self.graph = network, copy, copy.graph
        self.before = {str(node.name): node for node in network.graph}
        self.given, self.bounds = bounds, dict[str, tuple[bool, bool]]()
        self.integers: dict[ir.Value, _Integers] = {}
        self.weights: dict[str, CodedWeight] = {}
        self.coded: dict[str, _Integers] = {}
        """Weights that are known, by their names."""
        self.biases: dict[str, CodedBias] = {}
        self.owners: dict[str, str] = {}
        """Quantisers, those that must agree as a tree: the root is its own owner."""
        self.scales: dict[str, str] = {}
        self.zeros: dict[str, str] = {}
        self.values: dict[str, list[str]] = {}
        self.dtypes: dict[str, np.dtype[np.generic]] = {}
        self.factors_of: dict[str, list[tuple[str, int]]] = {}
        """By bias: the operands, node and place, that are the scales of what it is added to the product of."""
        self.parts: list[tuple[str, int, str]] = []
        """Operands that are a scale or a zero point: the node, which operand, and whose."""
        self.kinds: dict[str, None] = {}
        self.replaced: list[ir.Value] = []
        self.names = {str(value.name) for node in self.graph.all_nodes() for value in node.outputs}
        self.names |= {str(node.name) for node in self.graph.all_nodes()}
        self.names |= {str(value.name) for value in (*self.graph.inputs, *self.graph.initializers.values())}

    def run(self) -> Dequantised:
        """Node by node, in their order."""
        for inner in self.graph.subgraphs():
            for node in inner:
                if reads_quantised(node) or node.op_type == "DynamicQuantizeLinear":
                    raise self.refusal(node, "stands in the body of another node")
        for node in list(self.graph):
            if _is(node, "DequantizeLinear"):
                self.look_up(node)
        for node in list(self.graph):
            if node.graph is not None:
                self.take(node)
        for value in self.graph.outputs:
            if value in self.integers:
                raise InputError(
                    f"{self.network.label}: output {value.name!r} is of integers that stand for floats, so the model "
                    "cannot be dequantised; export it with float outputs"
                )
        passes.RemoveUnusedNodesPass()(self.copy.model)
        self.graph.sort()
        for value in self.replaced:
            for node, _ in value.uses():
                raise self.refusal(node, "reads integers that stand for floats")
        return Dequantised(self.copy, self.scheme(), self.bounds)

    def refusal(self, node: ir.Node, why: str) -> InputError:
        return InputError(
            f"{self.network.label}: node {node.name!r} ({node.op_type}) {why}, so the model cannot be dequantised; "
            "merge the float models, then quantise the result"
        )

    def take(self, node: ir.Node) -> None:
        """Put the float form of one node in its place."""
        kind = ("" if node.domain in STANDARD else node.domain, node.op_type)
        handlers = {
            "QuantizeLinear": self.quantise,
            "DequantizeLinear": self.dequantise,
            "DynamicQuantizeLinear": self.quantise_dynamically,
            "MatMulInteger": self.integer_product,
            "ConvInteger": self.integer_product,
            "MatMulNBits": self.packed_product,
            "DynamicQuantizeMatMul": self.dynamic_product,
            "QLinearConcat": self.concatenation,
        }
        if kind in _QLINEAR:
            self.qlinear(node, _QLINEAR[kind])
        elif kind[1] in handlers and kind[0] in {"", MICROSOFT}:
            handlers[kind[1]](node)
        elif reads_quantised(node):
            raise self.refusal(node, "is quantised in a way that is not known here")
        else:
            if any(value in self.integers for value in node.inputs if value is not None):
                self.passed_on(node)
            return
        self.kinds[kind[1]] = None

    # What is rounded, and what is read of it

    def look_up(self, node: ir.Node) -> None:
        """A table of integers whose rows are taken before they are scaled, by the scale that they are."""
        value = node.inputs[0]
        while value is not None and (maker := value.producer()) is not None and _moves(maker):
            value = maker.inputs[0]
        if value is node.inputs[0] or value is None or value.const_value is None or value.producer() is not None:
            return
        _, scale, zero = self.triple(node, 0)
        if _array(scale).size != 1:
            raise self.refusal(node, "scales a part of a weight along an axis")
        form = Plain(_shape(value), _dtype(value), None)
        self.integers[value] = self.weight(node, value, scale, zero, form, place=1)

    def quantise(self, node: ir.Node) -> None:
        """QuantizeLinear: of an activation, or of a weight that the file holds in floats."""
        value, scale, zero = self.triple(node, 0)
        axis, size = self.axis_of(node, value, scale)
        dtype = self.code_type(node, zero)
        if _is_initializer(value):
            form = Plain(_shape(value), dtype, axis, size)
            self.integers[node.outputs[0]] = self.weight(node, value, scale, zero, form, place=1, stored=False)
            return
        self.integers[node.outputs[0]] = self.rounded(node, 1, value, dtype)

    def rounded(self, node: ir.Node, place: int, value: ir.Value, dtype: np.dtype[np.generic]) -> _Integers:
        """An activation that ``node`` rounds by the scale and zero point from operand ``place`` on: its float twin."""
        scale, zero = self.pair(node, place)
        if _array(scale).size != 1:
            raise self.refusal(node, "has a scale along an axis for an activation")
        owner = self.owner(node, place, scale, zero, dtype)
        (least, most), offset = limits(dtype), 0 if zero is None else int(_array(zero).reshape(-1)[0])
        end = (most - offset) * float(_array(scale).reshape(-1)[0])
        own = offset == least, offset == least and abs(end - CLIPPED) < CLOSE * CLIPPED
        key = f"{value.name}/{scale.name}"
        self.bounds[key] = own
        low, high = own if self.given is None else self.given.get(key, own)
        found = (
            self.bounded(node, value, _tensor(scale).dtype, high=high)
            if low and not is_bounded(value, high=high)
            else value
        )
        self.values.setdefault(owner, []).append(str(found.name))
        return _Integers(found, scale, zero, owner)

    def owner(
        self, node: ir.Node, place: int, scale: ir.Value, zero: ir.Value | None, dtype: np.dtype[np.generic]
    ) -> str:
        """Note a quantiser, whose scale is operand ``place``; its name, that of scale and zero point together.

        Exporters store equal scalars once, so one scale may go with zero points of several activations.
        """
        name = str(scale.name) if zero is None else f"{scale.name}/{zero.name}"
        self.owners.setdefault(name, name)
        self.dtypes[name], self.scales[name] = dtype, str(scale.name)
        self.note(node, place, name)
        if zero is not None:
            self.zeros[name] = str(zero.name)
        return name

    def bounded(self, node: ir.Node, value: ir.Value, dtype: ir.DataType, *, high: bool) -> ir.Value:
        """What a Relu, or a Clip between 0 and CLIPPED, makes of a value, inserted after ``node``."""
        ends, inputs, attributes = {"min": 0.0, "max": CLIPPED} if high else {}, [value], dict[str, float]()
        if self.copy.model.opset_imports.get("", 0) < CLIP_READS:
            attributes = ends
        else:
            for word, end in ends.items():
                inputs.append(self.initializer(f"{value.name}/{word}", ir.tensor(np.array(end, dtype.numpy()))))
        new = ir.node("Clip" if high else "Relu", inputs, attributes, name=self.fresh(f"{node.name}/bounded"))
        new.outputs[0].name = self.fresh(f"{value.name}/bounded")
        new.outputs[0].type, new.outputs[0].shape = ir.TensorType(dtype), value.shape
        self.graph.insert_after(node, new)
        return new.outputs[0]

    def dequantise(self, node: ir.Node) -> None:
        """DequantizeLinear: of a weight, or of an activation that was rounded before."""
        value, scale, zero = self.triple(node, 0)
        told = node.attributes.get("output_dtype")
        if told is not None and told.as_int() not in {0, _tensor(scale).dtype.value}:
            raise self.refusal(node, "gives another type than its scale has")
        if value in self.integers:
            self.put(node, self.read(node, 0).floats)
            return
        bias = self.bias_of(node)
        if bias is not None:
            self.put(node, bias)
            return
        axis, size = self.axis_of(node, value, scale)
        if not _is_initializer(value):
            raise self.refusal(node, "reads integers that nothing in the model quantises")
        form = Plain(_shape(value), _dtype(value), axis, size)
        self.put(node, self.weight(node, value, scale, zero, form, place=1).floats)

    def read(self, node: ir.Node, place: int) -> _Integers:
        """An operand (tensor, scale, zero point) that stands for floats already, by the scale that it has."""
        value, scale, zero = self.triple(node, place)
        state = self.integers[value]
        alike = scale is state.scale and zero is state.zero
        if state.owner is not None:
            alike = np.array_equal(_array(scale).reshape(-1), _array(state.scale).reshape(-1))
            alike = alike and np.array_equal(_zeros(zero), _zeros(state.zero))
        if not alike:
            raise self.refusal(node, "reads integers by another scale than they were rounded by")
        if state.owner is None:
            return state
        if state.is_weight:
            self.note(node, place + 1, state.owner)
            return state
        found = self.owner(node, place + 1, scale, zero, self.dtypes[state.owner])
        self.owners[self.root(found)] = self.root(state.owner)
        return state

    def weight(
        self,
        node: ir.Node,
        value: ir.Value,
        scale: ir.Value,
        zero: ir.Value | None,
        form: Form,
        *,
        place: int | None = None,
        stored: bool = True,
    ) -> _Integers:
        """An initializer as a weight; its scale is operand ``place`` of ``node``, if that is said."""
        if not _is_initializer(value) or (stored and not is_codes(_dtype(value))):
            raise self.refusal(node, "reads integers that nothing in the model quantises")
        if isinstance(form, Plain) and _zeros(zero).size not in {1, _array(scale).size}:
            raise self.refusal(node, f"has {_zeros(zero).size} zero points and {_array(scale).size} scales")
        name = str(value.name)
        if place is not None:
            self.note(node, place, name)
        if name in self.coded:
            state = self.coded[name]
            if not np.array_equal(_array(scale), _array(state.scale)) or not np.array_equal(
                _zeros(zero), _zeros(state.zero)
            ):
                raise self.refusal(node, f"reads {name!r} by another scale than another node does")
            return state
        known = CodedWeight(
            name, name if stored else None, str(scale.name), None if zero is None else str(zero.name), form
        )
        self.weights[name] = known
        found = self.twin(value, scale, known) if stored else value
        self.coded[name] = _Integers(found, scale, zero, name, is_weight=True)
        return self.coded[name]

    def twin(self, value: ir.Value, scale: ir.Value, known: CodedWeight | CodedBias) -> ir.Value:
        """The float initializer for one of integers, computed when it is read; its name is free, as that one goes."""
        weights, dtype = self.network.weights, _tensor(scale).dtype
        shape = known.form.shape if isinstance(known, CodedWeight) else _shape(value)
        tensor = ir.LazyTensor(
            lambda: ir.Tensor(_contiguous(known.decoded(weights)), dtype=dtype, name=known.name),
            dtype,
            ir.Shape(shape),
            name=known.name,
        )
        self.graph.initializers.pop(str(value.name))
        self.replaced.append(value)
        found = ir.Value(name=str(value.name), type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=tensor)
        self.graph.register_initializer(found)
        return found

    def bias_of(self, node: ir.Node) -> ir.Value | None:
        """The float twin of a bias of 32 bits whose scale is the product of those beside it; None for what is none."""
        value, scale, zero = self.triple(node, 0)
        users = self.before[str(node.name)].outputs[0].uses()
        if not _is_initializer(value) or _dtype(value) != np.int32 or _zeros(zero).any() or len(users) != 1:
            return None
        reader, slot = next(iter(users))
        makers = [None if each is None else each.producer() for each in reader.inputs[:2]]
        if (
            reader.op_type not in _BIASED
            or slot != 2
            or any(m is None or not _is(m, "DequantizeLinear") for m in makers)
        ):
            return None
        names = [str(maker.inputs[1].name) for maker in makers if maker is not None and maker.inputs[1] is not None]
        known = CodedBias(str(value.name), str(value.name), names[0], names[1], str(scale.name))
        own = self.network.weights
        factor, told = known.factor(own), _array(scale).reshape(-1)
        if factor.size not in {1, told.size} or not np.allclose(factor, told, rtol=CLOSE, atol=0):
            return None
        self.note(node, 1, str(value.name))
        self.biases[known.name] = known
        self.factors_of[known.name] = [(str(maker.name), 1) for maker in makers if maker is not None]
        return self.twin(value, scale, known)

    # Operators on integers

    def qlinear(self, node: ir.Node, layout: _Layout) -> None:
        """An operator on integers, each with its scale, as that on floats."""
        self.require_plain(node)
        operands = [self.operand(node, place) for place in layout.operands]
        inputs = [each.floats for each in operands]
        bias = node.inputs[layout.bias] if layout.bias is not None and layout.bias < len(node.inputs) else None
        if bias is not None:
            names = [str(each.scale.name) for each in operands]
            known = CodedBias(str(bias.name), str(bias.name), names[0], names[1], None)
            if not _is_initializer(bias):
                raise self.refusal(node, "has a bias that is computed")
            self.biases[known.name] = known
            self.factors_of[known.name] = [(str(node.name), place + 1) for place in layout.operands]
            inputs.append(self.twin(bias, operands[0].scale, known))
        left_out = layout.left_out
        attributes = [each for name, each in node.attributes.items() if name not in left_out]
        self.computed(node, layout.floats, inputs, attributes, layout.output)

    def concatenation(self, node: ir.Node) -> None:
        """QLinearConcat: the scale and zero point of the output come first."""
        parts = [self.operand(node, place).floats for place in range(2, len(node.inputs), 3)]
        self.computed(node, "Concat", parts, list(node.attributes.values()), 0)

    def require_plain(self, node: ir.Node) -> None:
        """Raise InputError for attributes that the float operator does not have."""
        attributes = node.attributes
        opset = self.copy.model.opset_imports.get("", 0)
        old = "opset" in attributes and (attributes["opset"].as_int() < 13) != (opset < 13)
        if old or ("channels_last" in attributes and attributes["channels_last"].as_int()):
            raise self.refusal(node, "has its axes in an order that the float operator does not know")
        if node.op_type == "QGemm" and "alpha" in attributes and attributes["alpha"].as_float() != 1:
            raise self.refusal(node, "multiplies by alpha")

    def operand(self, node: ir.Node, place: int) -> _Integers:
        """One operand (tensor, scale, zero point) of an operator on integers."""
        value, scale, zero = self.triple(node, place)
        if value in self.integers and not self.integers[value].is_weight:
            return self.read(node, place)
        axis = None
        if _array(scale).size > 1:
            if place == 0:
                raise self.refusal(node, "has scales along an axis for what stands in front of its weight")
            axis = len(_shape(value)) - 1
            if node.op_type == "QLinearConv" or (node.op_type == "QGemm" and _integer(node, "transB")):
                axis = 0
            if _array(scale).size != _shape(value)[axis]:
                raise self.refusal(node, "has scales that belong to no axis of its weight")
        form = Plain(_shape(value), _dtype(value), axis)
        return self.weight(node, value, scale, zero, form, place=place + 1)

    def computed(
        self, node: ir.Node, operator: str, inputs: Sequence[ir.Value], attributes: Sequence[ir.Attr], output: int
    ) -> None:
        """Put a float operator in place of ``node``, whose output is rounded by operands ``output`` and the next."""
        old = node.outputs[0]
        new = ir.Node("", operator, [*inputs], [*attributes], name=node.name)
        new.outputs[0].name, new.outputs[0].shape = old.name, old.shape
        new.outputs[0].type = inputs[0].type
        self.graph.insert_after(node, new)
        if output < len(node.inputs) and node.inputs[output] is not None:
            _, zero = self.pair(node, output)
            old.name = self.fresh(f"{old.name}/codes")
            self.integers[old] = self.rounded(node, output, new.outputs[0], self.code_type(node, zero))
            return
        self.put(node, new.outputs[0])

    def passed_on(self, node: ir.Node) -> None:
        """An operator that moves integers about, or takes the greatest: it does so with floats."""
        states = [self.integers.get(value) if value is not None else None for value in node.inputs]
        known = [state for state in states if state is not None]
        scales = {
            (_array(each.scale).tobytes(), _zeros(each.zero).tobytes()) for each in known if each.owner is not None
        }
        joins = has(node, "joins")
        if not _moves(node) or states[0] is None or len(scales) != 1 or (joins and None in states):
            raise self.refusal(node, "computes with integers that stand for floats")
        first = known[0]
        if any(each.is_weight != first.is_weight for each in known):
            raise self.refusal(node, "puts weights and activations of integers side by side")
        inputs = list(node.inputs)
        for slot, state in enumerate(states):
            if state is not None:
                inputs[slot] = state.floats
                if not first.is_weight:
                    self.owners[self.root(str(state.owner))] = self.root(str(first.owner))
        new = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            [*node.attributes.values()],
            num_outputs=len(node.outputs),
            name=node.name,
        )
        self.graph.insert_after(node, new)
        for value, floats in zip(node.outputs, new.outputs, strict=True):
            floats.name, floats.type, floats.shape = value.name, first.floats.type, value.shape
            value.name = self.fresh(f"{value.name}/codes")
            self.integers[value] = replace(first, floats=floats)
            if not first.is_weight:
                self.values.setdefault(str(first.owner), []).append(str(floats.name))

    # Dynamic quantisation

    def quantise_dynamically(self, node: ir.Node) -> None:
        """DynamicQuantizeLinear: scale and zero point are computed, so there is nothing to be measured."""
        value = node.inputs[0]
        if value is None:
            raise self.refusal(node, "reads nothing")
        self.integers[node.outputs[0]] = _Integers(value, node.outputs[1], node.outputs[2])

    def integer_product(self, node: ir.Node) -> None:
        """MatMulInteger, ConvInteger: cast to floats and multiplied by the scales of both operands, it is a product."""
        states = [None if value is None else self.integers.get(value) for value in node.inputs[:2]]
        zeros = [node.inputs[place] if place < len(node.inputs) else None for place in (2, 3)]
        cast = _only_reader(node.outputs[0])
        if cast is None or cast.op_type != "Cast":
            raise self.refusal(node, "is not cast to floats next")
        last, factors = self.factors(cast)
        inputs = []
        for state, value, zero in zip(states, node.inputs[:2], zeros, strict=True):
            if state is not None and state.owner is None:
                mine = [each for each in factors if each.value is state.scale and zero is state.zero]
            else:
                mine = [each for each in factors if each.value.const_value is not None]
            if not mine or value is None:
                raise self.refusal(node, "is not multiplied by the scales of what it reads")
            factors.remove(mine[0])
            if state is None or state.owner is not None:
                inputs.append(self.scaled_weight(node, value, zero, mine[0]))
            else:
                inputs.append(state.floats)
        new = ir.Node("", _PRODUCTS[node.op_type], inputs, [*node.attributes.values()], name=node.name)
        self.graph.insert_before(last, new)
        self.put(last, new.outputs[0])

    def factors(self, cast: ir.Node) -> tuple[ir.Node, list[_Factor]]:
        """What the result of a Cast is multiplied by next, two factors at most, and the last node that does so."""
        found, last = list[_Factor](), cast
        while len(found) < 2:
            reader = _only_reader(last.outputs[0])
            if reader is None or reader.op_type != "Mul":
                break
            slot = 1 if reader.inputs[0] is last.outputs[0] else 0
            other = reader.inputs[slot]
            maker = None if other is None else other.producer()
            if maker is not None and maker.op_type == "Mul":
                found += [_Factor(value, maker, at) for at, value in enumerate(maker.inputs) if value is not None]
            elif other is not None:
                found.append(_Factor(other, reader, slot))
            last = reader
        return last, found

    def scaled_weight(self, node: ir.Node, value: ir.Value, zero: ir.Value | None, factor: _Factor) -> ir.Value:
        """The float twin of a weight by whose scale the result is multiplied."""
        count, axis = _array(factor.value).size, len(_shape(value)) - 1
        along = count > 1
        if along and (
            value is not node.inputs[1]
            or node.op_type != "MatMulInteger"
            or not _shape(factor.value)[-1] == count == _shape(value)[axis]
        ):
            raise self.refusal(node, "has scales that belong to no axis of its weight")
        if zero is not None and (not _is_initializer(zero) or _array(zero).size not in {1, count}):
            raise self.refusal(node, "has zero points that belong to no axis of its weight")
        form = Plain(_shape(value), _dtype(value), axis if along else None)
        state = self.weight(node, value, factor.value, zero, form)
        self.note(factor.node, factor.slot, str(state.owner), zero=False)
        self.note(node, 3, str(state.owner), zero=False)
        return state.floats

    def dynamic_product(self, node: ir.Node) -> None:
        """DynamicQuantizeMatMul: floats in and out, by a weight of integers, and a bias of floats."""
        activation, value, scale, zero, bias = (*node.inputs, None, None, None)[:5]
        if activation is None or value is None or scale is None or not _is_initializer(scale):
            raise self.refusal(node, "lacks an operand, or computes its scale")
        axis = len(_shape(value)) - 1
        form = Plain(_shape(value), _dtype(value), axis if _array(scale).size > 1 else None)
        state = self.weight(node, value, scale, zero, form)
        self.note(node, 2, str(state.owner))
        self.product(node, activation, state.floats, bias)

    def packed_product(self, node: ir.Node) -> None:
        """MatMulNBits: floats in and out, by a weight that is packed in blocks."""
        activation, value, scale, zero, order, bias = (*node.inputs, None, None, None)[:6]
        bits, size = _integer(node, "bits", 4), _integer(node, "block_size")
        if activation is None or value is None or scale is None or not _is_initializer(scale):
            raise self.refusal(node, "lacks an operand, or computes its scale")
        if order is not None or bits not in {2, 4, 8}:
            raise self.refusal(node, f"has its inputs in another order, or {bits} bits")
        form = NBits(bits, size, _integer(node, "K"), _integer(node, "N"))
        state = self.weight(node, value, scale, zero, form)
        self.note(node, 2, str(state.owner))
        self.product(node, activation, state.floats, bias)

    def product(self, node: ir.Node, left: ir.Value, right: ir.Value, bias: ir.Value | None) -> None:
        """Put a MatMul, and an Add where there is a bias, in place of a node."""
        new = ir.node("MatMul", [left, right], name=node.name)
        new.outputs[0].type = left.type
        self.graph.insert_before(node, new)
        found = new.outputs[0]
        if bias is not None:
            found.name = self.fresh(f"{node.outputs[0].name}/product")
            added = ir.node("Add", [found, bias], name=self.fresh(f"{node.name}/bias"))
            added.outputs[0].type = left.type
            self.graph.insert_before(node, added)
            found = added.outputs[0]
        self.put(node, found)

    # The graph, and what is noted of it

    def triple(self, node: ir.Node, place: int) -> tuple[ir.Value, ir.Value, ir.Value | None]:
        """A tensor, its scale and its zero point: operands ``place`` and the next two."""
        value = node.inputs[place]
        if value is None:
            raise self.refusal(node, "lacks an operand")
        state = self.integers.get(value)
        computed = state is not None and state.owner is None
        return value, *self.pair(node, place + 1, computed=computed)

    def pair(self, node: ir.Node, place: int, *, computed: bool = False) -> tuple[ir.Value, ir.Value | None]:
        """A scale and a zero point, operands ``place`` and the next, initializers unless they may be ``computed``."""
        scale = node.inputs[place]
        zero = node.inputs[place + 1] if place + 1 < len(node.inputs) else None
        if scale is None:
            raise self.refusal(node, "lacks a scale")
        if not computed and not (_is_initializer(scale) and (zero is None or _is_initializer(zero))):
            raise self.refusal(node, "has a scale or a zero point that is computed")
        return scale, zero

    def axis_of(self, node: ir.Node, value: ir.Value, scale: ir.Value) -> tuple[int | None, int]:
        """Along which axis of a tensor scales lie (None: there is one), and how many places share one (0: none do)."""
        shape, scales = _shape(value) if _is_initializer(value) else (), _shape(scale)
        if _array(scale).size == 1:
            return None, 0
        axis, size = _integer(node, "axis", 1), _integer(node, "block_size")
        axis += len(shape) if axis < 0 else 0
        if axis < len(shape) and not size and scales == (shape[axis],):
            return axis, 0
        blocked = [count // size if size and at == axis else count for at, count in enumerate(shape)]
        if axis < len(shape) and size and shape[axis] % size == 0 and list(scales) == blocked:
            return axis, size
        raise self.refusal(node, f"has scales of shape {list(scales)} for a tensor of shape {list(shape)}")

    def code_type(self, node: ir.Node, zero: ir.Value | None) -> np.dtype[np.generic]:
        """The type of the codes that a node rounds to."""
        told = _integer(node, "output_dtype")
        found = _dtype(zero) if zero is not None else ir.DataType(told or ir.DataType.UINT8.value).numpy()
        if not is_codes(found):
            raise self.refusal(node, f"rounds to {found}")
        return found

    def note(self, node: ir.Node, place: int, owner: str, *, zero: bool = True) -> None:
        """Operand ``place`` of a node, a scale, belongs to ``owner``, and so does the ``zero`` point behind it."""
        self.parts += [(str(node.name), at, owner) for at in ((place, place + 1) if zero else (place,))]

    def root(self, name: str) -> str:
        """The first of the quantisers that must agree with one."""
        while self.owners[name] != name:
            name = self.owners[name]
        return name

    def put(self, node: ir.Node, value: ir.Value) -> None:
        """Let ``value`` be read in place of a node's output; the node goes. Outputs of the graph keep their names."""
        old = node.outputs[0]
        if old.is_graph_output():
            own = value.producer()
            if own is None or value.is_graph_output():
                copy = ir.node("Identity", [value], name=self.fresh(f"{node.name}/copy"))
                copy.outputs[0].type = value.type
                self.graph.insert_after(node, copy)
                value = copy.outputs[0]
            for sites in self.values.values():
                sites[:] = [str(old.name) if name == value.name else name for name in sites]
            name, old.name = old.name, self.fresh(f"{old.name}/codes")
            value.name, value.shape = name, value.shape or old.shape
        elif value.name is None:
            value.name, value.shape, old.name = old.name, old.shape, self.fresh(f"{old.name}/codes")
        value.type = value.type or old.type
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)

    def fresh(self, wanted: str) -> str:
        """A name that no value has, like ``wanted``."""
        found, number = wanted, 0
        while found in self.names:
            number += 1
            found = f"{wanted}_{number}"
        self.names.add(found)
        return found

    def initializer(self, wanted: str, tensor: ir.TensorProtocol) -> ir.Value:
        """A new initializer."""
        name = self.fresh(wanted)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()))
        value.const_value = ir.Tensor(tensor.numpy(), name=name)
        self.graph.register_initializer(value)
        return value

    def scheme(self) -> Scheme:
        """The scheme, with a scale and a zero point of its own for each that has one."""
        network = replace(self.network, model=self.network.model.clone())
        graph = network.graph
        nodes = {str(node.name): node for node in graph}
        owners: dict[str, dict[str, str]] = {}
        """By initializer and owner: the initializer that is the owner's."""
        places = {(name, place) for name, place, _ in self.parts}
        for initializer, held in graph.initializers.items():
            if held.is_graph_output() or any((str(node.name), place) not in places for node, place in held.uses()):
                owners[initializer] = {"": initializer}  # of whom reads it as a number, which no scale may change
        taken = dict[tuple[str, int], str]()
        for name, place, owner in self.parts:
            node = nodes[name]
            value = node.inputs[place] if place < len(node.inputs) else None
            if value is None or not _is_initializer(value) or name not in nodes:
                continue
            key = owner if owner in self.weights or owner in self.biases else f"/{self.root(owner)}"
            if taken.setdefault((name, place), key) != key:
                raise self.refusal(node, "multiplies by one scale what two weights give")
            mine = owners.setdefault(str(value.name), {})
            if key not in mine:
                mine[key] = str(value.name) if not mine else self.fresh(f"{value.name}/{len(mine)}")
                if mine[key] != value.name:
                    own = ir.Value(name=mine[key], type=value.type, shape=value.shape, const_value=value.const_value)
                    graph.register_initializer(own)
            node.replace_input_with(place, graph.initializers[mine[key]])

        def of(name: str | None, key: str) -> str | None:
            return None if name is None else owners.get(name, {}).get(key, name)

        weights = tuple(
            replace(each, scale=str(of(each.scale, each.name)), zero=of(each.zero, each.name))
            for each in self.weights.values()
        )
        keys = {name: f"/{self.root(name)}" for name in self.owners}
        biases = []
        for each in self.biases.values():
            factors = [nodes[name].inputs[place] for name, place in self.factors_of[each.name]]
            activation, weight = (each.activation if value is None else str(value.name) for value in factors)
            biases.append(replace(each, activation=activation, weight=weight, scale=of(each.scale, each.name)))
        activations = []
        for root in [name for name in self.owners if self.owners[name] == name]:
            alike = [name for name in self.owners if self.root(name) == root]
            scales = dict.fromkeys(str(of(self.scales[name], keys[name])) for name in alike)
            zeros = dict.fromkeys(str(of(self.zeros[name], keys[name])) for name in alike if name in self.zeros)
            values = dict.fromkeys(value for name in alike for value in self.values.get(name, ()))
            activations.append(CodedActivation(tuple(scales), tuple(zeros), tuple(values), self.dtypes[root]))
        floats = frozenset(self.graph.initializers)
        return Scheme(network, weights, tuple(biases), tuple(activations), floats, tuple(self.kinds))


def _is(node: ir.Node, operator: str) -> bool:
    return node.op_type == operator and node.domain in {*STANDARD, MICROSOFT}


def _moves(node: ir.Node) -> bool:
    return has(node, *_MOVES) or (node.op_type == "MaxPool" and node.domain in STANDARD)


def _is_initializer(value: ir.Value) -> bool:
    return value.const_value is not None and value.producer() is None


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    if value.const_value is None:
        raise InputError(f"initializer {value.name!r} has no data; export the model again")
    return value.const_value


def _array(value: ir.Value) -> Array:
    return _tensor(value).numpy()


def _contiguous(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(array.shape)  # which would make a scalar a vector


def _zeros(value: ir.Value | None) -> Array:
    return np.zeros(1, np.int64) if value is None else _array(value).astype(np.int64).reshape(-1)


def _shape(value: ir.Value) -> tuple[int, ...]:
    return tuple(_tensor(value).shape.numpy())


def _dtype(value: ir.Value) -> np.dtype[np.generic]:
    return _tensor(value).dtype.numpy()


def _integer(node: ir.Node, name: str, default: int = 0) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _only_reader(value: ir.Value) -> ir.Node | None:
    readers = [node for node, _ in value.uses()]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None
