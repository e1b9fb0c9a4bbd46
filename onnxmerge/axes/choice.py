"""An If of which the branches only hand finished values on (see ``model.hoist``): its outputs are those of either."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxmerge.axes.node_context import NodeContext
from onnxmerge.axes.signature import NEUTRAL, Axes
from onnxmerge.model.hoist import bodies, passed_values


def offered_values(node: ir.Node) -> list[list[ir.Value]] | None:
    """For each branch what it hands on, output by output; None where a branch computes something."""
    if node.op_type != "If" or node.domain:
        return None
    found = [passed_values(body) for body in bodies(node)]
    return [values for values in found if values is not None] if None not in found else None


def choose(context: NodeContext, offered: Sequence[Sequence[ir.Value]]) -> tuple[Axes | None, ...]:
    """The axes of an If's outputs: whatever one branch gives must be laid out as the other's.

    Branches may differ by axes of size 1 (a Squeeze that does nothing elsewhere); where they differ by more, the shape
    downstream is that of the branch that was taken, and all of them are fixed.
    """
    made: list[Axes | None] = []
    for values, after in zip(zip(*offered, strict=True), context.output_shapes(), strict=True):
        names = [str(value.name) for value in values]
        axes = [context.axes.get(name) for name in names]
        if after is None or any(found is None for found in axes):
            for found in axes:
                context.fix(found or (), "an If gives it with an unknown shape")
            made.append(None if after is None else _fixed(context, after))
            continue
        long = [_long_axes(found or (), context.shapes[name]) for found, name in zip(axes, names, strict=True)]
        sizes = [size for size in after if size > 1]
        if any([size for _, size in found] != sizes for found in long):
            for found in axes:
                context.fix(found or (), "the branches of an If give other shapes")
            made.append(_fixed(context, after))
            continue
        joined = iter([_join(context, [cell for cell, _ in each]) for each in zip(*long, strict=True)])
        made.append(tuple(next(joined) if size > 1 else context.cells.new(size) for size in after))
    return tuple(made)


def _long_axes(axes: Axes, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(cell, size) for cell, size in zip(axes, shape, strict=True) if size > 1]


def _join(context: NodeContext, cells: Sequence[int]) -> int:
    real = [cell for cell in cells if cell != NEUTRAL]
    for cell in real[1:]:
        context.cells.unify(real[0], cell)
    return real[0] if real else NEUTRAL


def _fixed(context: NodeContext, shape: tuple[int, ...]) -> Axes:
    return tuple(context.cells.new_fixed(size, "the branches of an If differ") for size in shape)
