"""Compile statistics into the graph: models side by side on the same inputs, ending in sums and Gram products.

Activations stay where they are computed: a run hands back per-unit means and [units, units] products alone. The
instrumented graph is run and thrown away, never shipped, so what onnx-graphsurgeon's round trip loses does no harm.
Weights do not pass through it: they are bound to the finished graph, memory-mapped if they were.

A batch is centred by its own mean before the products, because in float32 the difference E[xy] - E[x]E[y] cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_graphsurgeon.logger import G_LOGGER

from onnxmerge.calibration.columns import UnitColumns
from onnxmerge.model.network import SOURCE, label

POSITION_BUDGET = "onnxmerge.positions"
"""The extra graph input (int64 [1]): about how many rows a view may contribute in this run."""

_END = np.iinfo(np.int64).max
_GROUP = 64  # rows added up one by one


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The units of one space as they stand in one activation (named as in the template)."""

    tensor: str
    columns: UnitColumns


@dataclass(frozen=True, slots=True)
class Product:
    """The sum over ``views`` (by index) of centred products, units of model i by units of model j."""

    key: str
    views: tuple[int, ...]
    pair: tuple[int, int]


def rows_output(view: int) -> str:
    """Name of the output with the number of rows (int64 scalar) of a view."""
    return f"onnxmerge.rows.{view}"


def mean_output(view: int, model: int) -> str:
    """Name of the output with the means (float32, units in order) of a view in a model."""
    return f"onnxmerge.mean.{view}.{model}"


def variance_output(view: int, model: int) -> str:
    """Name of the output with the variances (float32, units in order) of a view in a model, within this run."""
    return f"onnxmerge.variance.{view}.{model}"


def product_output(product: Product) -> str:
    """Name of the output with the products (float32 [units, units])."""
    return f"onnxmerge.product.{product.key}.{product.pair[0]}.{product.pair[1]}"


def instrument(
    template: ir.Model,
    weights: Sequence[Mapping[str, NDArray[Any]]],
    views: Sequence[View],
    products: Sequence[Product],
) -> ir.Model:
    """One model that runs every set of ``weights`` on the template's inputs and returns the statistics alone.

    Nodes that no view needs are left out. The outputs are named by the functions above; the inputs are the
    template's and `POSITION_BUDGET`.
    """
    skeleton, initializers = _skeleton(template)
    with G_LOGGER.suppress():  # it would print to standard output
        graphs = [gs.import_onnx(skeleton) for _ in weights]
        whole = graphs[0]
        shared = {tensor.name: tensor for tensor in whole.inputs}
        tensors = [_prefix(graph, f"model{index}/", shared) for index, graph in enumerate(graphs)]
        for other in graphs[1:]:
            whole.nodes.extend(other.nodes)
        whole.outputs = []
        _add_statistics(_Builder(whole), views, products, tensors)
        whole.cleanup(remove_unused_graph_inputs=False).toposort()
        proto = gs.export_onnx(whole, do_type_check=False)
    return _bind(proto, initializers, weights, label(template))


def _add_statistics(
    builder: _Builder, views: Sequence[View], products: Sequence[Product], tensors: Sequence[Mapping[str, Any]]
) -> None:
    """Add the outputs; ``tensors[m]`` are those of model m by the template's names."""
    matrices = [[_centred(builder, v, view, m, own) for m, own in enumerate(tensors)] for v, view in enumerate(views)]
    for product in products:
        i, j = product.pair
        terms = [builder.product(matrices[v][i], matrices[v][j]) for v in product.views]
        builder.output(builder.total(terms), product_output(product), np.float32)


def _skeleton(template: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """The template as a proto without its main graph's initializers, and those initializers."""
    model = template.clone()
    initializers: dict[str, ir.TensorProtocol] = {}
    for name, value in list(model.graph.initializers.items()):
        if value.const_value is not None:
            initializers[name] = value.const_value
            model.graph.initializers.pop(name)
    model.graph.inputs[:] = [value for value in model.graph.inputs if value.name not in initializers]
    return ir.to_proto(model), initializers


def _prefix(graph: Any, prefix: str, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Prefix every tensor but the graph's inputs, in subgraphs too, and read the inputs from the ``shared`` tensors.

    Returns the main graph's tensors by their former names.
    """
    found: dict[str, Any] = dict(shared)
    seen: set[int] = set()
    pending = [graph]
    while pending:
        scope = pending.pop()
        for node in scope.nodes:
            node.name = prefix + node.name if node.name else ""
            pending.extend(value for value in node.attrs.values() if isinstance(value, gs.Graph))
            for place, tensor in enumerate(node.inputs):
                if tensor.name in shared:
                    node.inputs[place] = shared[tensor.name]
        tensors = [*scope.inputs, *scope.outputs, *(t for node in scope.nodes for t in (*node.inputs, *node.outputs))]
        for tensor in tensors:
            if tensor.name and tensor.name not in shared and id(tensor) not in seen:
                seen.add(id(tensor))
                if scope is graph:
                    found[tensor.name] = tensor
                tensor.name = prefix + tensor.name
    return found


def _bind(
    proto: onnx.ModelProto,
    initializers: Mapping[str, ir.TensorProtocol],
    weights: Sequence[Mapping[str, NDArray[Any]]],
    where: str,
) -> ir.Model:
    """Give the exported graph the weights that its nodes use."""
    used = set(_names_used(proto.graph))
    bound: dict[str, ir.TensorProtocol] = {}
    for index, own in enumerate(weights):
        for name, original in initializers.items():
            prefixed = f"model{index}/{name}"
            if prefixed in used:
                bound[prefixed] = ir.tensor(own[name], name=prefixed) if name in own else original
    for prefixed, tensor in bound.items():
        # Declared as inputs for a moment, so that reading the proto back finds every name defined.
        proto.graph.input.append(onnx.helper.make_tensor_value_info(prefixed, int(tensor.dtype), tensor.shape.numpy()))
    model = ir.from_proto(proto)
    model.graph.meta[SOURCE] = f"{where} (with statistics)"
    for value in list(model.graph.inputs):
        if value.name in bound:
            model.graph.inputs.remove(value)
            value.const_value = bound[value.name]
            model.graph.register_initializer(value)
    return model


def _names_used(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _names_used(subgraph)


@dataclass(frozen=True, slots=True, eq=False)
class _Matrix:
    """A centred matrix in the graph: [units, rows] if ``units_first``, else [rows, units]."""

    tensor: Any
    units_first: bool


@dataclass(slots=True, eq=False)
class _Builder:
    """Adds nodes to a graph, in the form that its opset has for them."""

    graph: Any
    budget: Any = field(init=False)
    _count: int = 0

    def __post_init__(self) -> None:
        self.budget = gs.Variable(POSITION_BUDGET, np.int64, [1])
        self.graph.inputs.append(self.budget)

    @property
    def opset(self) -> int:
        return int(self.graph.opset)

    def node(self, op: str, *inputs: Any, **attributes: Any) -> Any:
        """Append a node with one output; arrays among the inputs become constants."""
        self._count += 1
        name = f"onnxmerge.{op}.{self._count}"
        tensors = [
            gs.Constant(f"{name}.{index}", value) if isinstance(value, np.ndarray) else value
            for index, value in enumerate(inputs)
        ]
        out = gs.Variable(name)
        self.graph.nodes.append(gs.Node(op, name, attributes, tensors, [out]))
        return out

    def output(self, tensor: Any, name: str, dtype: Any) -> None:
        tensor.name, tensor.dtype = name, dtype
        self.graph.outputs.append(tensor)

    def mean(self, tensor: Any, axes: range) -> Any:
        """The mean over axes, one axis after the other from the last on (ONNX Runtime adds up an axis in sequence)."""
        for axis in reversed(axes):
            if self.opset >= 18:  # the opset in which axes became an input
                tensor = self.node("ReduceMean", tensor, _ints(axis), keepdims=1)
            else:
                tensor = self.node("ReduceMean", tensor, axes=[axis], keepdims=1)
        return tensor

    def take(self, tensor: Any, positions: NDArray[np.int64], axis: int) -> Any:
        """Positions of an axis: a Slice if they are a run (a fused projection's part), else a Gather."""
        first, size = int(positions[0]), positions.size
        if not np.array_equal(positions, np.arange(first, first + size)):
            return self.node("Gather", tensor, positions, axis=axis)
        if self.opset >= 10:  # the opset in which bounds became inputs
            return self.node("Slice", tensor, _ints(first), _ints(first + size), _ints(axis))
        return self.node("Slice", tensor, starts=[first], ends=[first + size], axes=[axis])

    def product(self, left: _Matrix, right: _Matrix) -> Any:
        """The [units, units] product over rows."""
        form = {"transB": 1} if left.units_first else {"transA": 1}
        if self.opset >= 11:  # the opset in which C became optional
            return self.node("Gemm", left.tensor, right.tensor, **form)
        return self.node("Gemm", left.tensor, right.tensor, np.zeros(1, np.float32), beta=0.0, **form)

    def total(self, terms: Sequence[Any]) -> Any:
        return terms[0] if len(terms) == 1 else self.node("Sum", *terms)


@dataclass(frozen=True, slots=True)
class _Run:
    """Adjacent factors that stay together: sample factors (``unit`` None), or unit factors in the composite's order.

    Its length is ``static`` times those of the ``dynamic`` parts, each a whole axis divided by what else stands there;
    ``unit`` is the place of its last unit factor.
    """

    unit: int | None
    static: int
    dynamic: tuple[tuple[int, int], ...]


def _centred(builder: _Builder, index: int, view: View, model: int, tensors: Mapping[str, Any]) -> _Matrix:
    """The view's matrix in one model, centred, with its mean and variance as outputs."""
    units = view.columns.units
    grid, sample_axes = _grid(builder, tensors[view.tensor], view.columns)
    units_first = 0 not in sample_axes
    if model == 0:
        rows = builder.node("Div", builder.node("Size", grid), np.array(units, np.int64))
        builder.output(rows, rows_output(index), np.int64)
    grouped = sample_axes == range(1) and builder.opset >= 9  # ConstantOfShape
    if grouped:
        grid = builder.node("Reshape", grid, _ints(-1, units))
    mean = _mean_of_groups(builder, grid, units) if grouped else builder.mean(grid, sample_axes)
    centred = builder.node("Sub", grid, mean)
    squares = builder.node("Mul", centred, centred)
    variance = _mean_of_groups(builder, squares, units) if grouped else builder.mean(squares, sample_axes)
    builder.output(mean, mean_output(index, model), np.float32)
    builder.output(variance, variance_output(index, model), np.float32)
    flat = builder.node("Reshape", centred, _ints(units, -1) if units_first else _ints(-1, units))
    return _Matrix(flat, units_first)


def _mean_of_groups(builder: _Builder, tensor: Any, units: int) -> Any:
    """The mean [1, units] of [rows, units] (tokens flattened into one axis): over groups, then of the groups.

    A sum over ten thousand rows in sequence is off by 1e-4. Zeros fill up the last group.
    """
    group, one = _ints(_GROUP), _ints(1)
    rows = builder.node("Gather", builder.node("Shape", tensor), _ints(0), axis=0)
    groups = builder.node("Div", builder.node("Sub", builder.node("Add", rows, group), one), group)
    filled = builder.node("Mul", groups, group)
    shape = builder.node("Concat", builder.node("Sub", filled, rows), _ints(units), axis=0)
    whole = builder.node("Concat", tensor, builder.node("ConstantOfShape", shape), axis=0)
    mean = builder.mean(builder.node("Reshape", whole, _ints(-1, _GROUP, units)), range(2))
    share = (builder.node("Cast", count, to=int(onnx.TensorProto.FLOAT)) for count in (filled, rows))
    return builder.node("Reshape", builder.node("Mul", mean, builder.node("Div", *share)), _ints(1, units))


def _grid(builder: _Builder, tensor: Any, columns: UnitColumns) -> tuple[Any, range]:
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
        tensor = _thin_out(builder, tensor, samples[-1], columns.units)
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


def _shape(builder: _Builder, tensor: Any, runs: Sequence[_Run]) -> Any:
    """The target of the Reshape to runs: the last length known only at run time is -1, the others are computed."""
    dynamic = [place for place, run in enumerate(runs) if run.dynamic]
    if len(dynamic) <= 1:
        return _ints(*(-1 if run.dynamic else run.static for run in runs))
    shape = builder.node("Shape", tensor)
    lengths: list[Any] = []
    for place, run in enumerate(runs):
        length: Any = _ints(-1 if place == dynamic[-1] else run.static)
        for axis, known in run.dynamic if place != dynamic[-1] else ():
            whole = builder.node("Gather", shape, _ints(axis), axis=0)
            length = builder.node("Mul", length, whole if known == 1 else builder.node("Div", whole, _ints(known)))
        lengths.append(length)
    return builder.node("Concat", *lengths, axis=0)


def _thin_out(builder: _Builder, tensor: Any, last: int, units: int) -> Any:
    """Keep every k-th position of the last sample axis, k the least odd number that brings the rows within the budget.

    Odd, because positions come in powers of two (strides, patches, windows): an even step would see one phase only.
    """
    if builder.opset < 10:  # Slice had no steps
        return tensor
    one, two, budget = _ints(1), _ints(2), builder.budget
    rows = builder.node("Div", builder.node("Size", tensor), np.array(units, np.int64))
    step = builder.node("Div", builder.node("Sub", builder.node("Add", rows, budget), one), budget)
    odd = builder.node("Add", builder.node("Mul", builder.node("Div", step, two), two), one)
    return builder.node("Slice", tensor, _ints(0), _ints(_END), _ints(last), odd)


def _ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)
