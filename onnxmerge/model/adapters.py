"""Low-rank adapters: two linear layers in a row, with nothing but a factor between or behind, beside a base layer.

They are what LoRA leaves in an export that was not folded. Adapters of different rank have no units in common.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxmerge.model.linear_layers import integer
from onnxmerge.model.signature import STANDARD
from onnxmerge.model.structure import Structure, source


def adapter_rank(structure: Structure, node: ir.Node) -> tuple[int, int, int] | None:
    """(inputs, rank, outputs) of the adapter whose first layer is ``node``; None where it is none.

    The rank is smaller than both, the second layer alone reads what the first gives, and another linear layer with as
    many outputs reads what the first reads: the base.
    """
    down = _sizes(node)
    ups = [] if down is None else _readers(structure, node)
    up = _sizes(ups[0]) if len(ups) == 1 else None
    if down is None or up is None or down[1] != up[0] or down[1] >= min(down[0], up[1]):
        return None
    read = structure.operands[node][0]
    base = any(
        other is not node and structure.operands[other][:1] == (read,) and _sizes(other) == (down[0], up[1])
        for other in structure.nodes
    )
    return (down[0], down[1], up[1]) if base else None


def _readers(structure: Structure, node: ir.Node) -> list[ir.Node]:
    """Who reads what a node gives, through products with a single number."""
    found = []
    for reader in structure.nodes:
        if node.outputs[0] not in structure.operands[reader]:
            continue
        scaled = reader.op_type in ("Mul", "Div") and any(
            value is not None and value.const_value is not None and value.const_value.size == 1
            for value in structure.operands[reader]
        )
        found.extend(_readers(structure, reader) if scaled else [reader])
    return [reader for reader in found if reader.op_type not in ("Identity", "Dropout")]


def _sizes(node: ir.Node) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer with its weight in an initializer; None for another node."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = source(value).const_value if value is not None else None
    if node.domain not in STANDARD or tensor is None:
        return None
    shape = tuple(int(size) for size in tensor.shape.numpy())
    if node.op_type in ("MatMul", "Gemm") and len(shape) == 2:
        flip = node.attributes.get("transB")
        return (shape[1], shape[0]) if flip is not None and flip.as_int() else (shape[0], shape[1])
    if node.op_type == "Conv" and len(shape) > 2 and integer(node, "group", 1) == 1:
        return shape[1], shape[0]
    return None
