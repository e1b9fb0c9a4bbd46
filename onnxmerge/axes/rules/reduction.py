"""Reductions: axes that disappear into a sum, a mean or a maximum."""

from __future__ import annotations

from onnxmerge.axes.node_context import NodeContext
from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.signature import Axes


@rule("reduce")
def reduce(context: NodeContext) -> tuple[Axes | None, ...]:
    """Reduce*: symmetric in the reduced axes, so nothing is fixed; the output carries only the others."""
    axes, shape, after = context.operand(0), context.shape(0), context.output_shape()
    if axes is None or shape is None or after is None:
        return context.freeze("a reduction of unknown shape")
    which = context.ints("axes", 1)
    if which is None and context.input_name(1) is not None:
        return context.freeze("a reduction over axes that depend on the input")
    if not which:
        which = [] if context.attribute("noop_with_empty_axes", 0) else list(range(len(shape)))
    reduced = {axis % len(shape) for axis in which}
    if len(after) == len(shape):
        return (tuple(context.cells.new(1) if index in reduced else cell for index, cell in enumerate(axes)),)
    return (tuple(cell for index, cell in enumerate(axes) if index not in reduced),)


@rule("global_pool")
def global_pool(context: NodeContext) -> tuple[Axes | None, ...]:
    """GlobalAveragePool and its kin: symmetric in every position."""
    axes = context.operand(0)
    if axes is None:
        return context.freeze("a pooling of unknown shape")
    if context.attribute("channels_last", 0):
        return ((axes[0], *(context.cells.new(1) for _ in axes[1:-1]), axes[-1]),)
    return ((*axes[:2], *(context.cells.new(1) for _ in axes[2:])),)
