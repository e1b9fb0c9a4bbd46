"""Tables whose rows are looked up by an integer input: embeddings of tokens, of positions, of kinds of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxmerge.model.traits import has

_HANDING_ON = ("reshapes", "repeats", "takes", "joins", "copies", "selects")
"""Traits of operators that hand indices on as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """An initializer whose ``rows`` along ``axis`` a node looks up by number, each of ``width`` numbers."""

    value: ir.Value
    axis: int
    rows: int
    width: int


def hands_on(node: ir.Node) -> bool:
    """Whether a node hands indices on as they are."""
    return has(node, *_HANDING_ON) and not has(node, "looks_up")


def handed_on(value: ir.Value) -> Iterator[ir.Value]:
    """A value, and all that hands it on."""
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        yield current
        for node, slot in current.uses():
            if hands_on(node) and table_of(node, slot) is None:
                fresh = [output for output in node.outputs if output not in seen]
                seen.update(fresh)
                pending.extend(fresh)


def tables_of(value: ir.Value) -> Iterator[Table]:
    """The tables that are looked up by a value."""
    for current in handed_on(value):
        for node, slot in current.uses():
            found = table_of(node, slot)
            if found is not None:
                yield found


def table_of(node: ir.Node, slot: int) -> Table | None:
    """The table that a node looks up by its operand ``slot``; None where there is none, or it is computed."""
    if node.domain == "com.microsoft" and node.op_type.endswith("EmbedLayerNormalization"):
        place, axis = {0: 2, 1: 4 if node.op_type[0] != "Q" else 3}.get(slot), 0
    else:
        place, attribute = 0 if slot == 1 and has(node, "looks_up") else None, node.attributes.get("axis")
        axis = attribute.as_int() if attribute is not None else 0
    value = initializer_behind(node.inputs[place]) if place is not None and place < len(node.inputs) else None
    if value is None or value.const_value is None:
        return None
    shape = value.const_value.shape.numpy()
    if not -len(shape) <= axis < len(shape):
        return None
    rows = int(shape[axis])
    return Table(value, axis % len(shape), rows, value.const_value.size // max(rows, 1))


def initializer_behind(value: ir.Value | None) -> ir.Value | None:
    """The initializer behind a value that keeps its shape on the way, or None."""
    while value is not None and value.const_value is None:
        node = value.producer()
        if node is None or node.op_type not in {"Identity", "Cast", "DequantizeLinear"}:
            return None
        value = node.inputs[0]
    return value
