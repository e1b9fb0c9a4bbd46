"""A view of an activation as a centred matrix in the graph, its rows thinned out, with mean and variance as outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxmerge.activations.columns import UnitColumns
from onnxmerge.activations.editor import GraphEditor, Operand, ints
from onnxmerge.activations.views import POSITION_BUDGET, View, mean_output, rows_output, variance_output

_GROUP = 64  # rows added up one by one


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A centred matrix in the graph: [units, rows] if ``units_first``, else [rows, units]."""

    tensor: ir.Value
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


def centred(editor: GraphEditor, index: int, view: View, tensors: Sequence[ir.Value]) -> list[Matrix]:
    """The view's matrix in each model, centred, with its mean and variance as outputs."""
    units, runs = view.columns.units, _runs(view.columns)
    found: list[Matrix] = []
    step: ir.Value | None = None
    for model, tensor in enumerate(tensors):
        taken = _taken(editor, tensor, view.columns, runs)
        step = _step(editor, taken, units) if step is None else step  # the same in every model
        grid, sample_axes = _grid(editor, taken, runs, step)
        units_first = 0 not in sample_axes
        if model == 0:
            editor.output(
                editor.apply("Div", editor.apply("Size", grid), np.array(units, np.int64)), rows_output(index)
            )
        grouped = sample_axes == range(1)
        if grouped:
            grid = editor.apply("Reshape", grid, ints(-1, units))
        mean = _mean_of_groups(editor, grid, units) if grouped else _mean(editor, grid, sample_axes)
        centred = editor.apply("Sub", grid, mean)
        squares = editor.apply("Mul", centred, centred)
        variance = _mean_of_groups(editor, squares, units) if grouped else _mean(editor, squares, sample_axes)
        editor.output(mean, mean_output(index, model))
        editor.output(variance, variance_output(index, model))
        flat = editor.apply("Reshape", centred, ints(units, -1) if units_first else ints(-1, units))
        found.append(Matrix(flat, units_first))
    return found


def _mean(editor: GraphEditor, tensor: ir.Value, axes: range) -> ir.Value:
    """The mean over axes, one axis after the other from the last on (ONNX Runtime adds up an axis in sequence)."""
    for axis in reversed(axes):
        tensor = editor.mean(tensor, [axis])
    return tensor


def _mean_of_groups(editor: GraphEditor, tensor: ir.Value, units: int) -> ir.Value:
    """The mean [1, units] of [rows, units] (tokens flattened into one axis): over groups, then of the groups.

    A sum over ten thousand rows in sequence is off by 1e-4. Zeros fill up the last group.
    """
    group, one = ints(_GROUP), ints(1)
    rows = editor.apply("Gather", editor.apply("Shape", tensor), ints(0), axis=0)
    groups = editor.apply("Div", editor.apply("Sub", editor.apply("Add", rows, group), one), group)
    filled = editor.apply("Mul", groups, group)
    times = editor.apply("Concat", editor.apply("Sub", filled, rows), one, axis=0)
    zeros = editor.apply("Tile", np.zeros((1, units), np.float32), times)
    whole = editor.apply("Concat", tensor, zeros, axis=0)
    mean = _mean(editor, editor.apply("Reshape", whole, ints(-1, _GROUP, units)), range(2))
    share = (editor.cast(count, ir.DataType.FLOAT) for count in (filled, rows))
    return editor.apply("Reshape", editor.apply("Mul", mean, editor.apply("Div", *share)), ints(1, units))


def _taken(editor: GraphEditor, tensor: ir.Value, columns: UnitColumns, runs: Sequence[_Run]) -> ir.Value:
    """The view's positions, with an axis for each run."""
    for axis, part in enumerate(columns.axes):
        if part.positions is not None:
            tensor = editor.take(tensor, part.positions, axis)
    if not len(runs) == len(columns.axes) == sum(len(part.factors) for part in columns.axes):
        tensor = editor.apply("Reshape", tensor, _shape(editor, tensor, runs))
    return tensor


def _grid(editor: GraphEditor, tensor: ir.Value, runs: Sequence[_Run], step: ir.Value) -> tuple[ir.Value, range]:
    """Thin out the rows, bring the units together; which axes are samples then.

    Whichever of samples and units stands last stays last, so that the transpose copies whole runs.
    """
    samples = [place for place, run in enumerate(runs) if run.unit is None]
    if samples:
        tensor = editor.every(tensor, step, samples[-1])
    units = sorted((place for place, run in enumerate(runs) if run.unit is not None), key=lambda p: runs[p].unit or 0)
    units_first = runs[-1].unit is None
    order = [*units, *samples] if units_first else [*samples, *units]
    if order != sorted(order):
        tensor = editor.apply("Transpose", tensor, perm=order)
    first = len(units) if units_first else 0
    return editor.cast(tensor, ir.DataType.FLOAT), range(first, first + len(samples))


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


def _shape(editor: GraphEditor, tensor: ir.Value, runs: Sequence[_Run]) -> Operand:
    """The target of the Reshape to runs: the last length known only at run time is -1, the others are computed."""
    dynamic = [place for place, run in enumerate(runs) if run.dynamic]
    if len(dynamic) <= 1:
        return ints(*(-1 if run.dynamic else run.static for run in runs))
    shape = editor.apply("Shape", tensor)
    lengths: list[Operand] = []
    for place, run in enumerate(runs):
        length: Operand = ints(-1 if place == dynamic[-1] else run.static)
        for axis, known in run.dynamic if place != dynamic[-1] else ():
            whole = editor.apply("Gather", shape, ints(axis), axis=0)
            length = editor.apply("Mul", length, whole if known == 1 else editor.apply("Div", whole, ints(known)))
        lengths.append(length)
    return editor.apply("Concat", *lengths, axis=0)


def _step(editor: GraphEditor, tensor: ir.Value, units: int) -> ir.Value:
    """Of so many positions one is kept: the least odd number that brings the rows within the budget.

    Odd, because positions come in powers of two (strides, patches, windows): an even step would see one phase only.
    """
    one, two, budget = ints(1), ints(2), editor.values[POSITION_BUDGET]
    rows = editor.apply("Div", editor.apply("Size", tensor), np.array(units, np.int64))
    step = editor.apply("Div", editor.apply("Sub", editor.apply("Add", rows, budget), one), budget)
    return editor.apply("Add", editor.apply("Mul", editor.apply("Div", step, two), two), one)
