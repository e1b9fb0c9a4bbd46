"""The structure of a network as numbers: two values with one number are computed alike, whatever their names.

Each node's number stands for its signature and the numbers of its operands (hash consing: a dictionary gives one number
to one description, so there are no collisions). Float initializers, and integer ones that are quantised weights,
are described by shape and type; other integer and boolean ones (shape arithmetic, indices) by value too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxmerge.model.network import Network
from onnxmerge.model.quantised import reads_quantised
from onnxmerge.model.restored import is_restored
from onnxmerge.model.signature import STANDARD, Signature, signature, subgraphs

Operand = ir.Value | None


class Numbering:
    """One number for each description, the same for all networks that share the numbering."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def __getitem__(self, description: Hashable) -> int:
        return self._numbers.setdefault(description, len(self._numbers))


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """A network's nodes in topological order, those of a subgraph before the node that has it.

    ``operands`` are what a node reads (Identity looked through, then the outputs of its subgraphs), ``numbers`` the
    number of each node, ``contexts`` a number for what becomes of a node's results: it tells twins apart.
    """

    network: Network
    nodes: tuple[ir.Node, ...]
    signatures: dict[ir.Node, Signature]
    operands: dict[ir.Node, tuple[Operand, ...]]
    operand_numbers: dict[ir.Node, tuple[int, ...]]
    numbers: dict[ir.Node, int]
    contexts: dict[ir.Node, int]
    outputs: tuple[ir.Value, ...]
    output_numbers: tuple[int, ...]


def inner_first(graph: ir.Graph) -> Iterator[ir.Node]:
    """All nodes, those of a subgraph before the node that has it."""
    for node in graph:
        for _, inner in subgraphs(node):
            yield from inner_first(inner)
        yield node


def source(value: ir.Value) -> ir.Value:
    """What a value is a copy of: Identity, and Dropout outside training, are looked through."""
    node = value.producer()
    while node is not None and value.index() == 0 and passes_on(node):
        copied = node.inputs[0] if node.inputs else None
        if copied is None:
            break
        value = copied
        node = value.producer()
    return value


def sources(nodes: Iterable[ir.Node]) -> dict[ir.Value, ir.Value]:
    """What ``source`` gives for each value that is a copy, of nodes in topological order: linear in their number."""
    found: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        copied = node.inputs[0] if passes_on(node) and node.inputs else None
        if copied is not None:
            found[node.outputs[0]] = found.get(copied, copied)
    return found


def trips(node: ir.Node) -> int | None:
    """How many trips a Loop takes where that is constant: nothing in its body ends it. None for any other node."""
    if node.op_type != "Loop" or node.domain not in STANDARD or len(node.inputs) < 2:
        return None
    body = node.attributes["body"].as_graph()
    count, begins = _given(node.inputs[0]), True if node.inputs[1] is None else _given(node.inputs[1])
    goes_on = source(body.outputs[0])
    ends = goes_on is not body.inputs[1] and not (goes_on.const_value is not None and goes_on.const_value.numpy().all())
    return int(count) if count is not None and begins and not ends else None


def _given(value: ir.Value | None) -> Any:
    """The one number of an initializer; else None."""
    tensor = source(value).const_value if value is not None else None
    return tensor.numpy().reshape(-1)[0] if tensor is not None and tensor.size == 1 else None


def passes_on(node: ir.Node) -> bool:
    """Whether a node gives its first operand unchanged in inference."""
    if node.domain not in STANDARD:
        return False
    if node.op_type == "Dropout":
        training = node.inputs[2] if len(node.inputs) > 2 else None
        return training is None or (training.const_value is not None and not training.const_value.numpy().any())
    return node.op_type == "Identity"


def compares_by_value(value: ir.Value, reader: ir.Node | None) -> bool:
    """Whether an initializer must be equal in all networks where ``reader`` reads it (None: it is an output)."""
    tensor = value.const_value
    if tensor is None or not (tensor.dtype.is_integer() or tensor.dtype in {ir.DataType.BOOL, ir.DataType.STRING}):
        return False
    return reader is None or not (reads_quantised(reader) or is_restored(value))


def analyse(network: Network, numbering: Numbering) -> Structure:
    """Number the nodes of a network. Linear in its size."""
    nodes = tuple(inner_first(network.graph))
    leaves = _Leaves(network.graph, numbering)
    signatures: dict[ir.Node, Signature] = {}
    operands: dict[ir.Node, tuple[Operand, ...]] = {}
    operand_numbers: dict[ir.Node, tuple[int, ...]] = {}
    numbers: dict[ir.Node, int] = {}
    copies = sources(nodes)

    def number(value: Operand, reader: ir.Node | None) -> int:
        producer = value.producer() if value is not None else None
        if value is None or producer is None:
            return leaves.number(value, reader)
        return numbering["output", numbers[producer], value.index()]

    for node in nodes:
        signatures[node] = mark = signature(node, network.model.opset_imports)
        operands[node] = _operands(node, copies)
        operand_numbers[node] = read = tuple(number(value, node) for value in operands[node])
        numbers[node] = numbering["node", mark, tuple(sorted(read)) if mark.commutative else read]
    outputs = tuple(copies.get(value, value) for value in network.graph.outputs)
    return Structure(
        network,
        nodes,
        signatures,
        operands,
        operand_numbers,
        numbers,
        _contexts(nodes, operands, signatures, outputs, numbering),
        outputs,
        tuple(number(value, None) for value in outputs),
    )


def _operands(node: ir.Node, copies: Mapping[ir.Value, ir.Value]) -> tuple[Operand, ...]:
    read: list[Operand] = [copies.get(value, value) if value is not None else None for value in node.inputs]
    while read and read[-1] is None:
        read.pop()
    read.extend(copies.get(value, value) for _, graph in subgraphs(node) for value in graph.outputs)
    return tuple(read)


def _contexts(
    nodes: tuple[ir.Node, ...],
    operands: dict[ir.Node, tuple[Operand, ...]],
    signatures: dict[ir.Node, Signature],
    outputs: tuple[ir.Value, ...],
    numbering: Numbering,
) -> dict[ir.Node, int]:
    uses: dict[ir.Node, list[tuple[int, int, int]]] = {node: [] for node in nodes}

    def use(value: Operand, context: int, slot: int) -> None:
        producer = value.producer() if value is not None else None
        if producer is not None and value is not None:
            uses[producer].append((context, slot, value.index() or 0))

    for slot, output in enumerate(outputs):
        use(output, -1, slot)
    contexts: dict[ir.Node, int] = {}
    for node in reversed(nodes):
        contexts[node] = numbering["context", signatures[node], tuple(sorted(uses[node]))]
        if passes_on(node):  # its readers are counted as those of what it copies
            continue
        for slot, value in enumerate(operands[node]):
            use(value, contexts[node], -1 if signatures[node].commutative else slot)
    return contexts


class _Leaves:
    """Numbers of what no node computes: inputs, initializers, operands that are left out."""

    def __init__(self, graph: ir.Graph, numbering: Numbering) -> None:
        self._numbering = numbering
        self._inputs: dict[ir.Value, int] = {}
        self._digests: dict[ir.Value, bytes] = {}
        self._number_inputs(graph, ())

    def _number_inputs(self, graph: ir.Graph, nesting: tuple[str, ...]) -> None:
        for position, value in enumerate(graph.inputs):
            self._inputs[value] = self._numbering["input", nesting, position]
        for node in graph:
            for name, inner in subgraphs(node):
                self._number_inputs(inner, (*nesting, name))

    def number(self, value: Operand, reader: ir.Node | None) -> int:
        if value is None:
            return self._numbering["nothing"]
        if value in self._inputs:
            return self._inputs[value]
        tensor = value.const_value
        if tensor is None:
            return self._numbering["undefined", value.name]
        shape = tuple(tensor.shape.numpy())
        if not compares_by_value(value, reader):
            return self._numbering["weight", tensor.dtype, shape]
        if value not in self._digests:
            content = tensor.tobytes() if tensor.dtype != ir.DataType.STRING else repr(tensor.numpy().tolist()).encode()
            self._digests[value] = hashlib.sha256(content).digest()
        return self._numbering["constant", tensor.dtype, shape, self._digests[value]]
