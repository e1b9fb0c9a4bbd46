"""What bounds a value of a graph from below and above: where a Relu or a Relu6 would do nothing.

Quantisers leave these out where the codes of the value end at 0 or at 6, and the float network needs them back.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxmerge.model.traits import has

CLIPPED = 6.0
"""Where Relu6 ends."""

ROUNDED = 1e-3
"""What an end may be above CLIPPED, relative to it."""

_KEEPS_BOUNDS = ("reshapes", "takes", "repeats", "joins", "inert", "bounded_by_inputs")


def is_clipped(node: ir.Node, *, high: bool) -> bool:
    """Whether a Clip lets nothing below 0 pass, nor above CLIPPED where that is asked for."""
    for place, word, end in ((1, "min", 0.0), (2, "max", CLIPPED))[: 2 if high else 1]:
        value = node.inputs[place] if place < len(node.inputs) else None
        if value is not None and value.const_value is not None:
            told = float(value.const_value.numpy().reshape(-1)[0])
        elif value is None and word in node.attributes:
            told = node.attributes[word].as_float()
        else:
            return False
        if told < end if word == "min" else told > end * (1 + ROUNDED):
            return False
    return True


def is_bounded(value: ir.Value, *, high: bool) -> bool:
    """Whether nothing below 0 can be in a value, or it is clipped already: what bounds it would do nothing.

    Nor is there anything to put back behind an input of the network, whatever moves its elements about.
    """
    pending, seen, is_computed = [value], {value}, False
    while pending:
        current = pending.pop()
        node = current.producer()
        if node is None:
            if (current.const_value.numpy() < 0).any() if current.const_value is not None else is_computed:
                return False
            continue
        if node.op_type == "Clip" and is_clipped(node, high=high):
            continue
        if has(node, "not_negative") and not high:
            continue
        if has(node, *_KEEPS_BOUNDS):
            following = list(node.inputs) if has(node, "joins") else [node.inputs[0]]
        elif has(node, "not_negative_of_such") and not high:
            following, is_computed = list(node.inputs), True
        else:
            return False
        fresh = [each for each in following if each is not None and each not in seen]
        seen |= {*fresh}
        pending.extend(fresh)
    return True
