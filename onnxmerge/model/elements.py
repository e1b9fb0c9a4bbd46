"""Which elements of a small tensor are constant where others are computed from what the model is fed.

Exporters put widths and bounds for all axes together into one vector (Concat, Reshape, Slice, Transpose, Cast): the
zero of the channel axis then stands beside a width that depends on the input. An operator that only moves elements
about moves the marks of those that are constant in the same way, so it is applied to the marks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.model.traits import has

Marks: TypeAlias = NDArray[np.bool_]
"""True at the elements of a tensor that are constant; its shape is the tensor's."""

MOVING = ("reshapes", "repeats", "takes", "joins")
"""Traits (``model.traits``) of operators of which an element is an element of their first operand (Concat: of any)."""

ONE_BY_ONE = ("arithmetic", "copies", "selects")
"""Of which an element depends on the elements of all operands that it meets, and on nothing else."""

LONGEST = 256
"""Tensors of more elements are not looked at: widths and bounds are two numbers for each axis."""


def partly_constant(
    model: ir.Model,
    constants: Collection[str],
    shapes: Mapping[str, tuple[int, ...]],
    values: Mapping[str, NDArray[Any]],
) -> dict[str, tuple[int | None, ...]]:
    """The elements, in order, of integer tensors of which some are constant: None for the others.

    ``constants`` names the tensors that are constant as a whole (they are not among those found), ``values`` has what
    they hold and what every integer tensor held in the traced run.
    """
    opset = model.graph.opset_imports.get("", 1)
    marks: dict[str, Marks] = {}
    for node in model.graph:
        if has(node, *MOVING, *ONE_BY_ONE):
            marks.update(_marks_of(node, opset, marks, constants, shapes, values))
    return {
        name: tuple(int(each) if known else None for each, known in zip(values[name].flat, found.flat, strict=True))
        for name, found in marks.items()
        if name in values and values[name].dtype.kind in "iu"
    }


def _marks_of(
    node: ir.Node,
    opset: int,
    marks: Mapping[str, Marks],
    constants: Collection[str],
    shapes: Mapping[str, tuple[int, ...]],
    values: Mapping[str, NDArray[Any]],
) -> dict[str, Marks]:
    """The marks of a node's outputs, where something of them is constant although not all of its operands are."""
    names = [str(value.name) if value is not None else "" for value in node.inputs]
    given = [name for name in names if name]
    outputs = [str(value.name) for value in node.outputs]
    whole = all(name in constants for name in given)
    small = all(name in shapes and np.prod(shapes[name]) <= LONGEST for name in (*given, *outputs))
    moved = len(names) if node.op_type == "Concat" or has(node, *ONE_BY_ONE) else 1
    known = any(name in marks or name in constants for name in names[:moved])
    if whole or not small or not known or not all(name in constants for name in names[moved:] if name):
        return {}
    own = [marks.get(name, np.full(shapes[name], name in constants)) for name in names[:moved] if name]
    if has(node, *ONE_BY_ONE):
        found = [np.logical_and.reduce(np.broadcast_arrays(*own))]
    else:
        found = _moved(node, opset, names, own, values)
    return {name: made for name, made in zip(outputs, found, strict=False) if made.shape == shapes[name] and made.any()}


def _moved(
    node: ir.Node, opset: int, names: list[str], own: list[Marks], values: Mapping[str, NDArray[Any]]
) -> list[Marks]:
    """The node applied to the marks of what it moves, by ONNX's reference implementation."""
    moved = {name: each.astype(np.int64) for name, each in zip(names, own, strict=False)}
    feeds = {name: values[name] for name in names if name and name not in moved} | moved
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(ir.serde.serialize_node(node), opsets={"": opset})
        return [np.asarray(made).astype(np.bool_) for made in evaluator.run(None, feeds)]
    except Exception:  # noqa: BLE001  (whatever it raises for what it does not know: then nothing is known of these)
        return []
