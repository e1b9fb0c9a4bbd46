"""Networks in floats: each node of a quantised one is read by what its operator is registered for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxmerge.errors import InputError
from onnxmerge.model.dequantise.bounds import Bounds, joint
from onnxmerge.model.dequantise.dynamic import integer_product, matmul, quantise_dynamically
from onnxmerge.model.dequantise.moving import look_up, pass_on
from onnxmerge.model.dequantise.operands import is_dequantise_linear, operator_of
from onnxmerge.model.dequantise.packed import matmul_nbits
from onnxmerge.model.dequantise.pairs import dequantise_linear, quantise_linear
from onnxmerge.model.dequantise.qlinear import LAYOUTS, concatenation, qlinear
from onnxmerge.model.dequantise.translation import Translation
from onnxmerge.model.network import Network
from onnxmerge.model.opset import MICROSOFT
from onnxmerge.model.quantised import reads_quantised
from onnxmerge.model.scheme import Scheme

Reader = Callable[[Translation, ir.Node], None]
"""Puts the float form of a node in its place. Raises InputError for a node that has none."""

READERS: Mapping[tuple[str, str], Reader] = {
    ("", "QuantizeLinear"): quantise_linear,
    (MICROSOFT, "QuantizeLinear"): quantise_linear,
    ("", "DequantizeLinear"): dequantise_linear,
    (MICROSOFT, "DequantizeLinear"): dequantise_linear,
    **dict.fromkeys(LAYOUTS, qlinear),
    (MICROSOFT, "QLinearConcat"): concatenation,
    ("", "DynamicQuantizeLinear"): quantise_dynamically,
    ("", "MatMulInteger"): integer_product,
    ("", "ConvInteger"): integer_product,
    (MICROSOFT, "DynamicQuantizeMatMul"): matmul,
    (MICROSOFT, "MatMulNBits"): matmul_nbits,
}
"""By domain and operator."""


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
    bounds = joint([each.bounds for each in found])
    return tuple(
        each if all(bounds[name] == own for name, own in each.bounds.items()) else _taken_apart(network, bounds)
        for network, each in zip(networks, found, strict=True)
    )


def is_quantised(network: Network) -> bool:
    """Whether a network has operators that compute with integers that stand for floats."""
    return any(_is_quantised(node) for node in network.graph.all_nodes())


def _is_quantised(node: ir.Node) -> bool:
    return reads_quantised(node) or node.op_type == "DynamicQuantizeLinear"


def _taken_apart(network: Network, bounds: Bounds | None) -> Dequantised:
    """Node by node, in their order."""
    own = replace(network, model=network.model.clone())
    _untie_biases(own.graph)
    floats = replace(network, model=own.model.clone())
    translation = Translation(own, floats.model, bounds)
    for body in floats.graph.subgraphs():
        for node in filter(_is_quantised, body):
            raise translation.refusal(node, "stands in the body of another node")
    for node in filter(is_dequantise_linear, list(floats.graph)):
        look_up(translation, node)
    for node in list(floats.graph):
        if node.graph is not None:  # or another was put in place of both
            _read(translation, node)
    _finish(translation, floats)
    scheme = translation.notes.scheme(own, floats.graph.initializers, translation.graph.names)
    return Dequantised(floats, scheme, translation.bounds)


def _read(translation: Translation, node: ir.Node) -> None:
    reader = READERS.get(operator_of(node))
    if reader is not None:
        reader(translation, node)
        translation.notes.add_kind(node.op_type)
    elif reads_quantised(node):
        raise translation.refusal(node, "is quantised in a way that is not known here")
    elif any(value in translation.integers for value in node.inputs if value is not None):
        pass_on(translation, node)


def _finish(translation: Translation, floats: Network) -> None:
    """Take out what nothing reads any more. Raises InputError where integers are read that stand for floats."""
    for value in floats.graph.outputs:
        if value in translation.integers or value in translation.replaced:
            raise InputError(
                f"{floats.label}: output {value.name!r} is of integers that stand for floats, so the model "
                "cannot be dequantised; export it with float outputs"
            )
    passes.RemoveUnusedNodesPass()(floats.model)
    floats.graph.sort()
    for value in translation.replaced:
        for node, _ in value.uses():
            raise translation.refusal(node, "reads integers that stand for floats")


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
