"""What kills ONNX Runtime or onnx instead of being refused by it, as far as is known: no exception can be caught then.

Found by giving every operator of ONNX operands without elements and attributes without bounds (see also
``inference``). What is refused here is
not allowed by the operators' own descriptions.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxmerge.errors import InputError
from onnxmerge.model.signature import STANDARD
from onnxmerge.model.walk import short

LARGEST = 2**31
"""An axis, a size or a count is below this; larger ones are cut off on the way, silently."""
_ANY_NUMBER = frozenset({"Constant", "Slice"})
"""Operators whose attributes may be any number: Slice had "to the end" so."""
_BOUNDS = {
    ("GatherND", "batch_dims"): (0, 64),
    ("DepthToSpace", "blocksize"): (1, LARGEST),
    ("SpaceToDepth", "blocksize"): (1, LARGEST),
}
"""The least that an attribute may be, and what it is below: sums of some overflow long before ``LARGEST``."""
_NUMBERS = {"OneHot": 1}
"""Operators that read an operand's first element without asking whether there is one."""


def require_harmless(model: ir.Model, label: str) -> None:
    """Raise InputError for a node that native code would not survive."""
    for node in model.graph.all_nodes():
        if node.domain not in STANDARD:
            continue
        where = f"{label}: node {short(node.name)} ({node.op_type})"
        for name, attribute in node.attributes.items():
            if attribute.type != ir.AttributeType.INT or attribute.is_ref() or node.op_type in _ANY_NUMBER:
                continue
            (least, most), number = _BOUNDS.get((node.op_type, name), (-LARGEST, LARGEST)), attribute.as_int()
            if not least <= number < most:
                raise InputError(f"{where}: attribute {short(name)} is {number}, which it cannot be; export again")
        parts = node.attributes.get("num_outputs") if node.op_type == "Split" else None
        if parts is not None and parts.type == ir.AttributeType.INT and parts.as_int() != len(node.outputs):
            raise InputError(
                f"{where} has {len(node.outputs)} outputs, but its attribute 'num_outputs' is {parts.as_int()}; "
                "export again"
            )
        place = _NUMBERS.get(node.op_type)
        operand = node.inputs[place] if place is not None and place < len(node.inputs) else None
        if operand is not None and operand.const_value is not None and not operand.const_value.size:
            raise InputError(f"{where} reads a number from {short(operand.name)}, which is empty; export again")
