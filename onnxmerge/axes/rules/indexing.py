"""Gather, TopK, ArgMax and others that read positions by number."""

from __future__ import annotations

import numpy as np

from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.rules.reshaping import as_range
from onnxmerge.axes.rules.segments import replace_axis, take_segment
from onnxmerge.axes.signature import NEUTRAL, Axes
from onnxmerge.axes.site import Site


@rule("gather")
def gather(site: Site) -> tuple[Axes | None, ...]:
    """A constant run of indices is a segment; anything else looks positions up by number and fixes them."""
    axes, shape, index_shape, after = site.operand(0), site.shape(0), site.shape(1), site.output_shape()
    if axes is None or shape is None or index_shape is None or after is None:
        return site.freeze("a gather of unknown shape")
    axis = site.axis(len(shape))
    indices = site.value(1)
    bounds = None if indices is None else as_range(np.asarray(indices), shape[axis])
    if bounds is not None and len(index_shape) <= 1:
        taken = take_segment(site, axes, axis, *bounds, shape[axis])
        return (taken if index_shape else taken[:axis] + taken[axis + 1 :],)
    if axes[axis] != NEUTRAL:
        site.cells.fix(axes[axis], "looked up by index")
    looked_up = site.operand(1)
    if looked_up is None or indices is not None:
        looked_up = tuple(site.cells.new_fixed(size, "positions of an index") for size in index_shape)
    return ((*axes[:axis], *looked_up, *axes[axis + 1 :]),)


@rule("positional")
def positional(site: Site) -> tuple[Axes | None, ...]:
    """TopK, CumSum, ArgMax, Compress: the axis is read in order; the output has positions of its own there."""
    axes, shape = site.operand(0), site.shape(0)
    if axes is None or shape is None:
        return site.freeze("an unknown shape")
    found = site.value(1) if site.node.op_type == "CumSum" else None
    axis = int(found.ravel()[0]) % len(shape) if found is not None else site.axis(len(shape), -1)
    reason = f"{site.node.op_type} tells the positions of this axis apart"
    if axes[axis] != NEUTRAL:
        site.cells.fix(axes[axis], reason)
    made: list[Axes | None] = []
    for after in site.output_shapes():
        if after is None:
            made.append(None)
        elif len(after) == len(shape):
            made.append(replace_axis(site, axes, axis, site.cells.new_fixed(after[axis], reason), ()))
        else:
            made.append(axes[:axis] + axes[axis + 1 :])
    return tuple(made)
