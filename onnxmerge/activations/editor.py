"""A copy of a model into which operators are inserted, in the form that its opset has for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.model.opset import MICROSOFT, make_measurable

Operand: TypeAlias = ir.Value | NDArray[Any]
"""What a node reads: arrays become constants."""

_END = np.iinfo(np.int64).max


class GraphEditor:
    """Inserts operators into a copy of a model. The original is never changed."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model.clone()
        self.graph = self.model.graph
        self.values = {str(value.name): value for value in (*self.graph.inputs, *self.graph.initializers.values())}
        self.values.update((str(value.name), value) for node in self.graph for value in node.outputs)
        self._opset = make_measurable(self.model)
        self._cursor: ir.Node | None = None
        self._count = 0
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def at(self, node: ir.Node | None) -> None:
        """Insert what follows right behind a node."""
        self._cursor = node

    def apply(self, operator: str, *inputs: Operand, domain: str = "", **attributes: Any) -> ir.Value:
        """The output of a new node."""
        values = [self.constant(value) if isinstance(value, np.ndarray) else value for value in inputs]
        node = ir.node(operator, values, attributes, domain=domain)
        self._count += 1
        node.name = f"onnxmerge::{operator}_{self._count}"
        node.outputs[0].name = f"onnxmerge::value_{self._count}"
        if self._cursor is not None:
            self.graph.insert_after(self._cursor, node)
        else:
            self.graph.insert_before(self.graph[0], node)
        self._cursor = node
        return node.outputs[0]

    def constant(self, array: NDArray[Any]) -> ir.Value:
        """An initializer of this value: one for all nodes that read it."""
        key = array.dtype.name, array.shape, array.tobytes()
        if key not in self._constants:
            self._count += 1
            name = f"onnxmerge::constant_{self._count}"
            self._constants[key] = ir.val(name, const_value=ir.Tensor(array))  # ir.tensor looks for what it is first
            self.graph.register_initializer(self._constants[key])
        return self._constants[key]

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.Value:
        """Another input of the graph: what each batch brings with it."""
        value = ir.val(name, dtype, shape)
        self.graph.inputs.append(value)
        self.values[name] = value
        return value

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return self.apply("Cast", value, to=int(dtype))

    def mean(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """ReduceMean that keeps its axes; they became an input in opset 18."""
        if self._opset >= 18:
            return self.apply("ReduceMean", value, ints(*axes), keepdims=1)
        return self.apply("ReduceMean", value, axes=list(axes), keepdims=1)

    def take(self, value: ir.Value, positions: NDArray[np.int64], axis: int) -> ir.Value:
        """Positions of an axis: a Slice if they are a run (a fused projection's part), else a Gather."""
        first, size = int(positions[0]), positions.size
        if not np.array_equal(positions, np.arange(first, first + size)):
            return self.apply("Gather", value, positions, axis=axis)
        if self._opset >= 10:  # the opset in which bounds became inputs
            return self.apply("Slice", value, ints(first), ints(first + size), ints(axis))
        return self.apply("Slice", value, starts=[first], ends=[first + size], axes=[axis])

    def every(self, value: ir.Value, step: ir.Value, axis: int) -> ir.Value:
        """Positions 0, step, 2 step, ... of an axis; ``step`` is a tensor [1]."""
        if self._opset >= 10:  # the opset in which Slice got steps
            return self.apply("Slice", value, ints(0), ints(_END), ints(axis), step)
        size = self.apply("Gather", self.apply("Shape", value), ints(axis), axis=0)
        return self.apply("Gather", value, self.apply("Range", ints(0), size, step, domain=MICROSOFT), axis=axis)

    def product(self, left: ir.Value, right: ir.Value, *, units_first: bool) -> ir.Value:
        """The [units, units] product over rows of [units, rows] if ``units_first``, else of [rows, units]."""
        form: dict[str, Any] = {"transB": 1} if units_first else {"transA": 1}
        if self._opset >= 11:  # the opset in which C became optional
            return self.apply("Gemm", left, right, **form)
        return self.apply("Gemm", left, right, np.zeros(1, np.float32), beta=0.0, **form)

    def output(self, value: ir.Value, name: str) -> None:
        """Another output of the graph, under a name of its own."""
        value.name = name
        self.graph.outputs.append(value)


def ints(*values: int) -> NDArray[np.int64]:
    """Numbers as operators take them: int64 [values]."""
    return np.array(values, np.int64)
