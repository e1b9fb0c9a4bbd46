"""Which spaces may be rotated, and not only permuted: those through whose units only linear operators see.

If x' = R x with R orthogonal, whatever reads x by a weight W is undone by W R^T, and <R q, R k> = <q, k>. So a space is
free to rotate where every tensor that carries it is made of weights that carry it, moved about, scaled by what does
not depend on the unit, added to tensors that carry it too, and in the end contracted against a tensor that carries
it: a weight (value-output space of attention) or another activation (query-key space). A normalisation, a
nonlinearity, a rotary embedding or any operator not known for that (``model.traits``) in between, and it is not.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxmerge.errors import StructureError
from onnxmerge.model.signature import operands
from onnxmerge.model.traits import has, operands_of
from onnxmerge.units.layout import TensorLayout, Typing
from onnxmerge.units.permutations import bind


def rotatable(graph: ir.Graph, typing: Typing) -> tuple[str, ...]:
    """The free spaces that may be rotated as well, in the order of the typing."""
    outer = {name for space in typing.spaces.values() for name in space.varies_with}
    wanted = [space.id for space in typing.spaces.values() if space.free and space.size > 1 and space.id not in outer]
    return tuple(name for name in wanted if _floats(graph, typing, name) and _linear(graph, typing, name))


def _floats(graph: ir.Graph, typing: Typing, space: str) -> bool:
    """Whether all weights that carry the space are floats (at least one), each unit's outer units known."""
    carriers = [layout for layout in typing.initializers.values() if _axes(layout, space)]
    values = [graph.initializers.get(layout.name) for layout in carriers]
    if any(value is None or value.dtype is None or not value.dtype.is_floating_point() for value in values):
        return False
    try:
        for layout in carriers:
            for block, axis in layout.occurrences(space):
                for place, name in enumerate(block.axes[axis].spaces):
                    if name == space:
                        bind(layout.name, block, (axis, place), typing.spaces)
    except StructureError:
        return False
    return bool(carriers) and typing.statistics.isdisjoint(layout.name for layout in carriers)


def _linear(graph: ir.Graph, typing: Typing, space: str) -> bool:
    """Whether every operator that a tensor with this space meets is linear in it."""
    for node in graph:
        seen = [*operands(node), *node.outputs]
        if any(_carries(value, typing, space) for value in seen) and not _linear_node(node, typing, space):
            return False
    return True


def _linear_node(node: ir.Node, typing: Typing, space: str) -> bool:
    if has(node, "attends"):
        return _linear_attention(node, typing, space)
    if node.domain not in ("", "ai.onnx") or any(value is None for value in node.inputs):
        return False
    inputs = [_carries(value, typing, space) for value in node.inputs]
    given = any(_carries(value, typing, space) for value in node.outputs)
    if has(node, "reshapes", "repeats", "takes", "copies"):
        return inputs[0] and not any(inputs[1:]) and _floating(node.outputs[0])
    if has(node, "sums"):
        return all(inputs) and given
    if has(node, "scales"):
        return sum(inputs) == 1 and inputs.index(True) in operands_of(node, "scales") and given
    if node.op_type in ("MatMul", "Gemm"):
        return _linear_product(node, typing, space) and (len(inputs) < 3 or inputs[2] == given)
    return False


def _linear_attention(node: ir.Node, typing: Typing, space: str) -> bool:
    """Whether the space is seen by products of queries, keys and values alone, and given on by nothing but these.

    A norm of queries or keys is another operand that carries their space, and so are the angles that it turns them by.
    What queries alone carry numbers their heads: these share keys, and a Softmax sees each by itself.
    """
    read = {place for place, value in enumerate(node.inputs) if _carries(value, typing, space)}
    given = [place for place, value in enumerate(node.outputs) if _carries(value, typing, space)]
    heads = read == {0} and _first_alone(_layout(node.inputs[0], typing), space)
    return read <= {*operands_of(node, "attends")} and given in ([], [0]) and not heads


def _first_alone(layout: TensorLayout | None, space: str) -> bool:
    """Whether a space stands in the first part of a tensor and in no other: in packed operands, queries come first."""
    carriers = [] if layout is None else [block for block in layout.blocks if space in block.spaces]
    return len(carriers) == 1 and all((axis.positions == 0).any() for axis in carriers[0].axes)


def _linear_product(node: ir.Node, typing: Typing, space: str) -> bool:
    """Whether the space stands on matrix axes alone, and is contracted in both factors or in neither."""
    contracted = []
    for index, value in enumerate(node.inputs[:2]):
        layout = _layout(value, typing)
        if layout is None:
            return False
        rank = len(layout.shape)
        flip = node.attributes.get("transB" if index else "transA")
        inner = rank - 1 if (index == 0) == (flip is None or not flip.as_int()) or rank == 1 else rank - 2
        axes = _axes(layout, space)
        if any(axis < rank - 2 for axis in axes):
            return False
        contracted.append(inner in axes)
    return contracted[0] == contracted[1]


def _carries(value: ir.Value | None, typing: Typing, space: str) -> bool:
    layout = _layout(value, typing)
    return layout is not None and bool(_axes(layout, space))


def _layout(value: ir.Value | None, typing: Typing) -> TensorLayout | None:
    name = "" if value is None else str(value.name)
    return typing.initializers.get(name) or typing.activations.get(name)


def _axes(layout: TensorLayout, space: str) -> set[int]:
    return {axis for _, axis in layout.occurrences(space)}


def _floating(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()
