"""A view of an activation as a centred matrix in the graph, its rows thinned out, with mean and variance as outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxmerge.activations.builder import Builder, ints
from onnxmerge.activations.columns import UnitColumns
from onnxmerge.activations.views import View, mean_output, rows_output, variance_output

_GROUP = 64  # rows added up one by one


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A centred matrix in the graph: [units, rows] if ``units_first``, else [rows, units]."""

    tensor: Any
    units_first: bool


@dataclass(frozen=True, slots=True)
class _Run:
    """Adjacent factors that stay together: sample factors (``unit`` None), or unit factors in the composite's order.

    Its length is ``static`` times those of the ``dynamic`` parts, each a whole axis divided by what else stands there;
    ``unit`` is the place of its last unit factor.
    """

    unit: int | None
    static: int
    dynamic: tuple[tuple[int, int], ...]


def centred(builder: Builder, index: int, view: View, model: int, tensors: Mapping[str, Any]) -> Matrix:
    """The view's matrix in one model, centred, with its mean and variance as outputs."""
    units = view.columns.units
    grid, sample_axes = _grid(builder, index, tensors[view.tensor], view.columns)
    units_first = 0 not in sample_axes
    if model == 0:
        rows = builder.node("Div", builder.node("Size", grid), np.array(units, np.int64))
        builder.output(rows, rows_output(index), np.int64)
    grouped = sample_axes == range(1)
    if grouped:
        grid = builder.node("Reshape", grid, ints(-1, units))
    mean = _mean_of_groups(builder, grid, units) if grouped else builder.mean(grid, sample_axes)
    centred = builder.node("Sub", grid, mean)
    squares = builder.node("Mul", centred, centred)
    variance = _mean_of_groups(builder, squares, units) if grouped else builder.mean(squares, sample_axes)
    builder.output(mean, mean_output(index, model), np.float32)
    builder.output(variance, variance_output(index, model), np.float32)
    flat = builder.node("Reshape", centred, ints(units, -1) if units_first else ints(-1, units))
    return Matrix(flat, units_first)


def _mean_of_groups(builder: Builder, tensor: Any, units: int) -> Any:
    """The mean [1, units] of [rows, units] (tokens flattened into one axis): over groups, then of the groups.

    A sum over ten thousand rows in sequence is off by 1e-4. Zeros fill up the last group.
    """
    group, one = ints(_GROUP), ints(1)
    rows = builder.node("Gather", builder.node("Shape", tensor), ints(0), axis=0)
    groups = builder.node("Div", builder.node("Sub", builder.node("Add", rows, group), one), group)
    filled = builder.node("Mul", groups, group)
    times = builder.node("Concat", builder.node("Sub", filled, rows), one, axis=0)
    zeros = builder.node("Tile", np.zeros((1, units), np.float32), times)
    whole = builder.node("Concat", tensor, zeros, axis=0)
    mean = builder.mean(builder.node("Reshape", whole, ints(-1, _GROUP, units)), range(2))
    share = (builder.node("Cast", count, to=int(onnx.TensorProto.FLOAT)) for count in (filled, rows))
    return builder.node("Reshape", builder.node("Mul", mean, builder.node("Div", *share)), ints(1, units))


def _grid(builder: Builder, index: int, tensor: Any, columns: UnitColumns) -> tuple[Any, range]:
    """Take the view's positions, thin out the rows, bring the units together; which axes are samples then.

    Whichever of samples and units stands last stays last, so that the transpose copies whole runs.
    """
    for axis, part in enumerate(columns.axes):
        if part.positions is not None:
            tensor = builder.take(tensor, part.positions, axis)
    runs = _runs(columns)
    if not len(runs) == len(columns.axes) == sum(len(part.factors) for part in columns.axes):
        tensor = builder.node("Reshape", tensor, _shape(builder, tensor, runs))
    samples = [place for place, run in enumerate(runs) if run.unit is None]
    if samples:
        step = builder.shared(index, lambda: _step(builder, tensor, columns.units))
        tensor = builder.every(tensor, step, samples[-1])
    units = sorted((place for place, run in enumerate(runs) if run.unit is not None), key=lambda p: runs[p].unit or 0)
    units_first = runs[-1].unit is None
    order = [*units, *samples] if units_first else [*samples, *units]
    if order != sorted(order):
        tensor = builder.node("Transpose", tensor, perm=order)
    first = len(units) if units_first else 0
    return builder.node("Cast", tensor, to=int(onnx.TensorProto.FLOAT)), range(first, first + len(samples))


def _runs(columns: UnitColumns) -> list[_Run]:
    """The factors of all axes in order, joined where neighbours are both samples, or units that follow each other.

    Axis 0 stays alone: means over the batch and over positions, one after the other, keep more digits than one mean.
    """
    runs: list[_Run] = []
    for axis, part in enumerate(columns.axes):
        known = math.prod(factor.size for factor in part.factors if factor.size is not None)
        for place, factor in enumerate(part.factors):
            run = _Run(factor.unit, factor.size or 1, ((axis, known),) if factor.size is None else ())
            follows = None if factor.unit is None else factor.unit - 1
            if runs and runs[-1].unit == follows and not (axis == 1 and place == 0):
                last = runs.pop()
                run = _Run(run.unit, last.static * run.static, last.dynamic + run.dynamic)
            runs.append(run)
    return runs


def _shape(builder: Builder, tensor: Any, runs: Sequence[_Run]) -> Any:
    """The target of the Reshape to runs: the last length known only at run time is -1, the others are computed."""
    dynamic = [place for place, run in enumerate(runs) if run.dynamic]
    if len(dynamic) <= 1:
        return ints(*(-1 if run.dynamic else run.static for run in runs))
    shape = builder.node("Shape", tensor)
    lengths: list[Any] = []
    for place, run in enumerate(runs):
        length: Any = ints(-1 if place == dynamic[-1] else run.static)
        for axis, known in run.dynamic if place != dynamic[-1] else ():
            whole = builder.node("Gather", shape, ints(axis), axis=0)
            length = builder.node("Mul", length, whole if known == 1 else builder.node("Div", whole, ints(known)))
        lengths.append(length)
    return builder.node("Concat", *lengths, axis=0)


def _step(builder: Builder, tensor: Any, units: int) -> Any:
    """Of so many positions one is kept: the least odd number that brings the rows within the budget.

    Odd, because positions come in powers of two (strides, patches, windows): an even step would see one phase only.
    """
    one, two, budget = ints(1), ints(2), builder.budget
    rows = builder.node("Div", builder.node("Size", tensor), np.array(units, np.int64))
    step = builder.node("Div", builder.node("Sub", builder.node("Add", rows, budget), one), budget)
    return builder.node("Add", builder.node("Mul", builder.node("Div", step, two), two), one)
