"""Say in one line where two structures part."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmerge.model.adapters import adapter_rank
from onnxmerge.model.signature import Signature, attribute_defaults
from onnxmerge.model.structure import Operand, Structure, compares_by_value, passes_on

LONG = 60


def difference(first: Structure, second: Structure) -> str | None:
    """The first difference of two structures, nearest to the inputs, both sides shown; None where there is none.

    The sentence has the first network's side first and names nothing but nodes and tensors.
    """
    ports = _port_difference(first, second)
    if ports is not None:
        return ports
    if first.output_numbers == second.output_numbers:
        return None
    here, there = _frontier(first, second), _frontier(second, first)
    if here and there:
        one = here[0]
        other = max(there, key=lambda node: _likeness(first, one, second, node))
        return _node_difference(first, one, second, other)
    if here:
        return f"{show(here[0])} has no counterpart"
    if there:
        return f"nothing corresponds to {show(there[0])}"
    slot = next(
        slot
        for slot, pair in enumerate(zip(first.output_numbers, second.output_numbers, strict=True))
        if len({*pair}) > 1
    )
    return f"output {slot} is {_origin(first.outputs[slot])} against {_origin(second.outputs[slot])}"


def adapter_difference(first: Structure, second: Structure) -> str | None:
    """What is said where the first difference is the rank of an adapter; None for all other differences."""
    if _port_difference(first, second) is not None:
        return None
    here, there = _frontier(first, second), _frontier(second, first)
    for one in here:
        ours = adapter_rank(first, one)
        for other in there if ours is not None else ():
            theirs = adapter_rank(second, other)
            if ours is not None and theirs is not None and (ours[0], ours[2]) == (theirs[0], theirs[2]):
                return (
                    f"adapters of rank {ours[1]} at {show(one)} against {theirs[1]} at {show(other)}; fold each "
                    "adapter into its base weight first (onnxmerge fold), then merge"
                )
    return None


def show(node: ir.Node) -> str:
    """A node as messages name it."""
    return f"node {node.name!r} ({node.op_type})"


def _port_difference(first: Structure, second: Structure) -> str | None:
    """The first difference among the inputs, or in the number and types of the outputs."""
    for kind, ours, theirs in (
        ("input", first.network.graph.inputs, second.network.graph.inputs),
        ("output", first.network.graph.outputs, second.network.graph.outputs),
    ):
        if len(ours) != len(theirs):
            return f"{len(ours)} {kind}s ({_names(ours)}) against {len(theirs)} ({_names(theirs)})"
        for one, other in zip(ours, theirs, strict=True):
            alike = _same_dims(one.shape, other.shape, strict=kind == "input")
            if one.dtype != other.dtype or not alike:
                return f"{kind} {one.name!r} is {_declared(one)} against {other.name!r}, {_declared(other)}"
    return None


def _names(values: Any) -> str:
    return ", ".join(repr(value.name) for value in values)


def _declared(value: ir.Value) -> str:
    dims = "?" if value.shape is None else ",".join(str(_size(dim) or "dynamic") for dim in value.shape)
    return f"{value.dtype.name if value.dtype is not None else 'untyped'}[{dims}]"


def _size(dim: int | ir.SymbolicDim) -> int | None:
    """A declared size; None where it is dynamic, which some exporters write as -1."""
    return dim if isinstance(dim, int) and dim >= 0 else None


def _same_dims(one: ir.Shape | None, other: ir.Shape | None, *, strict: bool) -> bool:
    """Whether sizes agree; the names of dynamic axes do not matter.

    Outputs (not strict) are declared as shape inference left them: what one exporter did not know is no difference.
    """
    if one is None or other is None:
        return one is other or not strict
    if len(one) != len(other):
        return False
    pairs = [(_size(a), _size(b)) for a, b in zip(one, other, strict=True)]
    return all(a == b or (not strict and None in {a, b}) for a, b in pairs)


def _frontier(structure: Structure, other: Structure) -> list[ir.Node]:
    """Nodes that the other has not, while all they read from other nodes it has."""
    known = set(other.numbers.values())

    def matched(value: Operand) -> bool:
        producer = value.producer() if value is not None else None
        return producer is None or structure.numbers[producer] in known

    return [
        node
        for node in structure.nodes
        if structure.numbers[node] not in known and not passes_on(node) and all(map(matched, structure.operands[node]))
    ]


def _likeness(first: Structure, one: ir.Node, second: Structure, other: ir.Node) -> tuple[int, int, bool]:
    shared = len({*first.operand_numbers[one]} & {*second.operand_numbers[other]})
    alike = first.signatures[one].op_type == second.signatures[other].op_type
    return shared + alike, shared, first.signatures[one] == second.signatures[other]


def _node_difference(first: Structure, one: ir.Node, second: Structure, other: ir.Node) -> str:
    both = f"{show(one)} against {show(other)}"
    ours, theirs = first.signatures[one], second.signatures[other]
    if (ours.domain, ours.op_type) != (theirs.domain, theirs.op_type):
        return both
    if ours.epoch != theirs.epoch:
        return f"{both}: the operator changed its meaning at opset {max(ours.epoch, theirs.epoch)}"
    if ours != theirs:
        return f"{both}: {_attribute_difference(ours, theirs, first, second)}"
    reads, others = first.operands[one], second.operands[other]
    if len(reads) != len(others):
        return f"{both}: {len(reads)} operands against {len(others)}"
    for a, b in _unlike(first, one, second, other):
        return f"{both}: {_operand_difference(a, one, b, other)}"
    return both


def _unlike(first: Structure, one: ir.Node, second: Structure, other: ir.Node) -> list[tuple[Operand, Operand]]:
    """Pairs of operands whose numbers differ, those that agree in any order left out where order does not matter."""
    ours = list(zip(first.operand_numbers[one], first.operands[one], strict=True))
    theirs = list(zip(second.operand_numbers[other], second.operands[other], strict=True))
    if first.signatures[one].commutative:
        for item in list(ours):
            match = next((index for index, found in enumerate(theirs) if found[0] == item[0]), None)
            if match is not None:
                ours.remove(item)
                del theirs[match]
    return [(a, b) for (number, a), (found, b) in zip(ours, theirs, strict=True) if number != found]


def _attribute_difference(ours: Signature, theirs: Signature, first: Structure, second: Structure) -> str:
    mine, yours = dict(ours.attributes), dict(theirs.attributes)
    for name in sorted({*mine, *yours}):
        if mine.get(name) != yours.get(name):
            sides = []
            for mark, attributes, structure in ((ours, mine, first), (theirs, yours, second)):
                version = structure.network.model.opset_imports.get(mark.domain, 1)
                default = attribute_defaults(mark.op_type, mark.domain, version).get(name, "its default")
                sides.append(attributes.get(name, default))
            return f"attribute {name!r} is {' against '.join(_brief_pair(*sides))}"
    return f"subgraphs {list(ours.graphs)} against {list(theirs.graphs)}"


def _operand_difference(a: Operand, one: ir.Node, b: Operand, other: ir.Node) -> str:
    mine, yours = _describe(a), _describe(b)
    tensors = [value.const_value for value in (a, b) if value is not None and value.const_value is not None]
    by_value = a is not None and b is not None and compares_by_value(a, one) and compares_by_value(b, other)
    if by_value and len(tensors) == 2 and tensors[0].shape == tensors[1].shape and tensors[0].dtype == tensors[1].dtype:
        left, right = _brief_pair(*(tensor.numpy().tolist() for tensor in tensors))
        return f"{mine} holds {left} against {right} in {yours}"
    return f"it reads {mine} against {yours}"


def _describe(value: Operand) -> str:
    if value is None:
        return "nothing"
    if value.const_value is not None and value.producer() is None:
        tensor = value.const_value
        return f"initializer {value.name!r} of {tensor.dtype.name}{list(tensor.shape.numpy())}".replace(", ", ",")
    return _origin(value)


def _origin(value: ir.Value) -> str:
    producer = value.producer()
    return f"{value.name!r}" if producer is None else f"{value.name!r} of {show(producer)}"


def _brief_pair(one: Any, other: Any) -> tuple[str, str]:
    """Two values as text; long ones from where they begin to differ."""
    left, right = str(_plain(one)), str(_plain(other))
    if max(len(left), len(right)) <= LONG:
        return left, right
    start = next((index for index, pair in enumerate(zip(left, right, strict=False)) if len({*pair}) > 1), 0)
    start = max(0, start - 10)
    return tuple(("..." if start else "") + text[start : start + LONG] + "..." for text in (left, right))  # type: ignore[return-value]


def _plain(value: Any) -> Any:
    """A tensor-valued attribute as numbers."""
    if isinstance(value, tuple) and len(value) == 3 and isinstance(value[2], bytes):
        name, shape, content = value
        dtype = ir.DataType[name].numpy() if name in ir.DataType.__members__ else np.dtype(np.uint8)
        return np.frombuffer(content, dtype).reshape(shape).tolist()
    return list(value) if isinstance(value, tuple) else value
