"""Integer initializers that plain operators restore to floats: weights that somebody quantised by hand.

A network may hold a weight as int8, and make it a float again by Cast, Sub of a zero point and Mul by a scale, or
unpack it from its bits first. What becomes a float so, together with other initializers only, and is then multiplied
by an activation in a linear layer (or looked up, or added as a bias) is a weight, and so are its zero points.
Positions, masks and shapes are not: they are wider integers without a scale, or end elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxmerge.model.signature import STANDARD
from onnxmerge.model.traits import has, operands_of

NARROW = frozenset(
    {kind for kind in ir.DataType if kind.is_integer() and kind.bitwidth <= 16 and kind != ir.DataType.BOOL}
)
"""Types of quantised weights. What is of 32 bits is one only if it is scaled: a bias, or several numbers in one."""
WIDE = ir.DataType.INT32


@dataclass(frozen=True, slots=True)
class _Trail:
    """What has become of an initializer so far."""

    value: ir.Value
    floats: bool = False
    """Whether it is a float by now,"""
    scaled: bool = False
    """multiplied by a float of the model,"""
    looked_up: bool = False
    """and taken from a table by computed indices: then it is an activation already."""


def is_restored(value: ir.Value) -> bool:
    """Whether an integer initializer becomes a weight of a linear layer, an embedding or a bias by plain operators."""
    tensor = value.const_value
    if tensor is None or tensor.dtype not in {*NARROW, WIDE}:
        return False
    narrow = tensor.dtype in NARROW
    flat = sum(size > 1 for size in tensor.shape.numpy()) <= 1
    pending, seen = [_Trail(value)], {_Trail(value)}
    while pending:
        trail = pending.pop()
        enough = trail.floats and (narrow or trail.scaled)
        if enough and trail.looked_up:
            return True
        for node, slot in trail.value.uses():
            if node.domain not in STANDARD:
                continue
            alone = all(_from_initializers(other) for at, other in enumerate(node.inputs) if at != slot)
            if enough and not alone:
                is_bias = node.op_type == "Add" and trail.scaled and flat
                if is_bias or slot in operands_of(node, "weights"):
                    return True
            fresh = {*_followed(trail, node, slot, alone=alone)} - seen
            seen |= fresh
            pending.extend(fresh)
    return False


def _followed(trail: _Trail, node: ir.Node, slot: int, *, alone: bool) -> Iterator[_Trail]:
    """What becomes of it in a node that reads it; nothing where it is not the weight any more."""
    operator, found = node.op_type, trail
    if operator in {"Cast", "CastLike"} and slot == 0:
        to = node.attributes.get("to")
        found = replace(trail, floats=to is None or ir.DataType(to.as_int()).is_floating_point())
        if trail.floats and not found.floats:
            return
    elif operator == "Gather" and slot == 0:
        found = replace(trail, looked_up=trail.looked_up or not alone)
    elif has(node, "arithmetic", "inert", "weights"):
        if not alone:
            return
        found = replace(trail, scaled=trail.scaled or (trail.floats and operator in {"Mul", "Div"}))
    elif (
        not has(node, "reshapes", "repeats", "takes", "joins")
        or (slot > 0 and operator != "Concat")
        or not (alone or trail.looked_up)
    ):
        return
    yield from (replace(found, value=output) for output in node.outputs)


def _from_initializers(value: ir.Value | None) -> bool:
    """Whether nothing that the network is fed comes into a value."""
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        if current is None or current.const_value is not None:
            continue
        node = current.producer()
        if node is None or len(seen) > _MOST_VALUES:
            return False
        fresh = {read for read in node.inputs if read not in seen}
        seen |= fresh
        pending.extend(fresh)
    return True


_MOST_VALUES = 200
"""A weight is restored by fewer steps than that."""
