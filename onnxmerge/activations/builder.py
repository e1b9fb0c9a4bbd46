"""Adds nodes to an onnx-graphsurgeon graph, in the form that its opset has for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmerge.activations.views import POSITION_BUDGET
from onnxmerge.model.opset import MICROSOFT

_END = np.iinfo(np.int64).max


@dataclass(slots=True, eq=False)
class Builder:
    """Adds nodes to a graph, in the form that its opset has for them."""

    graph: Any
    budget: Any = field(init=False)
    _count: int = 0
    _shared: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.budget = gs.Variable(POSITION_BUDGET, np.int64, [1])
        self.graph.inputs.append(self.budget)

    @property
    def opset(self) -> int:
        return int(self.graph.opset)

    def node(self, op: str, *inputs: Any, domain: str | None = None, **attributes: Any) -> Any:
        """Append a node with one output; arrays among the inputs become constants."""
        self._count += 1
        name = f"onnxmerge.{op}.{self._count}"
        tensors = [
            gs.Constant(f"{name}.{index}", value) if isinstance(value, np.ndarray) else value
            for index, value in enumerate(inputs)
        ]
        out = gs.Variable(name)
        self.graph.nodes.append(gs.Node(op, name, attributes, tensors, [out], domain=domain))
        return out

    def shared(self, view: int, make: Callable[[], Any]) -> Any:
        """What is the same for a view in every model, made once."""
        if view not in self._shared:
            self._shared[view] = make()
        return self._shared[view]

    def output(self, tensor: Any, name: str, dtype: Any) -> None:
        tensor.name, tensor.dtype = name, dtype
        self.graph.outputs.append(tensor)

    def mean(self, tensor: Any, axes: range) -> Any:
        """The mean over axes, one axis after the other from the last on (ONNX Runtime adds up an axis in sequence)."""
        for axis in reversed(axes):
            if self.opset >= 18:  # the opset in which axes became an input
                tensor = self.node("ReduceMean", tensor, ints(axis), keepdims=1)
            else:
                tensor = self.node("ReduceMean", tensor, axes=[axis], keepdims=1)
        return tensor

    def take(self, tensor: Any, positions: NDArray[np.int64], axis: int) -> Any:
        """Positions of an axis: a Slice if they are a run (a fused projection's part), else a Gather."""
        first, size = int(positions[0]), positions.size
        if not np.array_equal(positions, np.arange(first, first + size)):
            return self.node("Gather", tensor, positions, axis=axis)
        if self.opset >= 10:  # the opset in which bounds became inputs
            return self.node("Slice", tensor, ints(first), ints(first + size), ints(axis))
        return self.node("Slice", tensor, starts=[first], ends=[first + size], axes=[axis])

    def every(self, tensor: Any, step: Any, axis: int) -> Any:
        """Positions 0, step, 2 step, ... of an axis; ``step`` is a tensor [1]."""
        if self.opset >= 10:  # the opset in which Slice got steps
            return self.node("Slice", tensor, ints(0), ints(_END), ints(axis), step)
        size = self.node("Gather", self.node("Shape", tensor), ints(axis), axis=0)
        return self.node("Gather", tensor, self.node("Range", ints(0), size, step, domain=MICROSOFT), axis=axis)

    def product(self, left: Any, right: Any, *, units_first: bool) -> Any:
        """The [units, units] product over rows of [units, rows] if ``units_first``, else of [rows, units]."""
        form: dict[str, Any] = {"transB": 1} if units_first else {"transA": 1}
        if self.opset >= 11:  # the opset in which C became optional
            return self.node("Gemm", left, right, **form)
        return self.node("Gemm", left, right, np.zeros(1, np.float32), beta=0.0, **form)

    def total(self, terms: Sequence[Any]) -> Any:
        return terms[0] if len(terms) == 1 else self.node("Sum", *terms)


def ints(*values: int) -> NDArray[np.int64]:
    """Numbers as operators take them: int64 [values]."""
    return np.array(values, np.int64)
