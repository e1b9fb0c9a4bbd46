"""One node on its way through typing: what a rule may look at, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.axes.cells import Cells
from onnxmerge.axes.signature import NEUTRAL, Axes


@dataclass(slots=True)
class Findings:
    """What typing gathers besides the cells themselves.

    ``hidden``: sets of cells carried by intermediate statistics (the mean over a LayerNorm's axis carries the rest).
    ``taps``: (tensor, cell) wherever an operator contracts the cell with another operand.
    ``summed``: for an input of a node, the (axis, cell) along which the node adds up products with another operand.
    """

    hidden: list[Axes] = field(default_factory=list)
    taps: list[tuple[str, int]] = field(default_factory=list)
    summed: dict[tuple[ir.Node, int], list[tuple[int, int]]] = field(default_factory=dict)


@dataclass(slots=True)
class NodeContext:
    """A node with the cells of its operands, their traced shapes and the values that are known, some only in part.

    ``from_weights`` are the tensors computed from weights and constants alone, ``from_lengths`` the constants computed
    from the shape of any other tensor: with an input of another length they are others.
    """

    node: ir.Node
    cells: Cells
    axes: Mapping[str, Axes]
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, NDArray[Any]]
    partly: Mapping[str, tuple[int | None, ...]]
    opset: int
    findings: Findings
    from_weights: Collection[str] = ()
    from_lengths: Collection[str] = ()

    @property
    def label(self) -> str:
        name = self.node.name or (self.node.outputs[0].name if self.node.outputs else "")
        return f"{self.node.op_type} {name!r}"

    def input_name(self, index: int) -> str | None:
        if index >= len(self.node.inputs):
            return None
        value = self.node.inputs[index]
        return None if value is None else value.name

    def operand(self, index: int) -> Axes | None:
        """The cells of an input; None where it is absent or its shape is unknown."""
        name = self.input_name(index)
        return None if name is None else self.axes.get(name)

    def operands(self) -> list[Axes | None]:
        return [self.operand(index) for index in range(len(self.node.inputs))]

    def shape(self, index: int) -> tuple[int, ...] | None:
        name = self.input_name(index)
        return None if name is None else self.shapes.get(name)

    def input_shapes(self) -> list[tuple[int, ...] | None]:
        return [self.shape(index) for index in range(len(self.node.inputs))]

    def output_shape(self, index: int = 0) -> tuple[int, ...] | None:
        name = self.node.outputs[index].name
        return None if name is None else self.shapes.get(name)

    def output_shapes(self) -> list[tuple[int, ...] | None]:
        return [self.output_shape(index) for index in range(len(self.node.outputs))]

    def is_used(self, index: int) -> bool:
        """Whether anybody reads an output."""
        if index >= len(self.node.outputs):
            return False
        value = self.node.outputs[index]
        return bool(value.uses()) or value.is_graph_output()

    def value(self, index: int) -> NDArray[Any] | None:
        """The value of an input that does not depend on what the model is fed, or None."""
        name = self.input_name(index)
        return None if name is None else self.values.get(name)

    def takes_a_length(self, *indices: int) -> bool:
        """Whether operand 0 is a weight of which these operands take as much as an input is long.

        Then what is not taken now may be taken another time: it must not be told apart from the rest.
        """
        bounds = {self.input_name(index) for index in indices}
        return self.input_name(0) in self.from_weights and not bounds.isdisjoint(self.from_lengths)

    def initial_value(self, index: int) -> NDArray[Any] | None:
        """The value of an input that is constant or an initializer (in other models a float one may differ)."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        known = self.value(index)
        if known is None and value is not None and value.is_initializer() and value.const_value is not None:
            return value.const_value.numpy()
        return known

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value; the operator schema's default where it is not set, else ``default``."""
        found = self.node.attributes.get(name)
        if found is not None:
            return found.value
        try:
            schema = onnx.defs.get_schema(self.node.op_type, self.opset, self.node.domain)
        except onnx.defs.SchemaError:
            return default
        declared = schema.attributes.get(name)
        if declared is None or not declared.default_value.type:
            return default
        return onnx.helper.get_attribute_value(declared.default_value)

    def text(self, name: str, default: Any = None) -> Any:
        """An attribute's value, with bytes as text."""
        found = self.attribute(name, default)
        return found.decode() if isinstance(found, bytes) else found

    def ints(self, attribute: str, index: int) -> list[int] | None:
        """Integers from an attribute (older opsets) or from a constant input (newer ones)."""
        found = self.attribute(attribute)
        if found is not None:
            return [int(v) for v in (found if isinstance(found, (list, tuple)) else [found])]
        value = self.value(index)
        return None if value is None else [int(v) for v in np.ravel(value)]

    def known_ints(self, attribute: str, index: int) -> list[int | None] | None:
        """As ``ints``, with None for each element that depends on what the model is fed; None where its length does."""
        found, name = self.ints(attribute, index), self.input_name(index)
        if found is not None:
            return [*found]
        partly = self.partly.get(name) if name is not None else None
        if partly is not None:
            return [*partly]
        shape = self.shape(index)
        return None if shape is None else [None] * prod(shape)

    def optional_ints(self, attribute: str, index: int, default: Sequence[int]) -> list[int] | None:
        """As ``ints``, with a default for what is not given; None where it is given and not known."""
        given = self.input_name(index) is not None or attribute in self.node.attributes
        return self.ints(attribute, index) if given else [*default]

    def axis(self, rank: int, default: int = 0, name: str = "axis") -> int:
        """The attribute ``axis`` as an index from 0."""
        return int(self.attribute(name, default)) % max(rank, 1)

    def real(self, cell: int, size: int) -> int:
        """A cell for an axis that may be neutral, where an operator needs one."""
        return self.cells.new(size) if cell == NEUTRAL else cell

    def fix(self, axes: Iterable[int], reason: str) -> None:
        """Fix cells, except where the tensor is uniform."""
        for cell in axes:
            if cell != NEUTRAL:
                self.cells.fix(cell, reason)

    def freeze(self, reason: str) -> tuple[Axes | None, ...]:
        """Fix every axis of every operand; the outputs get fixed axes of their own."""
        for axes in self.operands():
            self.fix(axes or (), reason)
        return self.fresh_fixed(reason)

    def fresh_fixed(self, reason: str) -> tuple[Axes | None, ...]:
        return tuple(
            None if shape is None else tuple(self.cells.new_fixed(size, reason) for size in shape)
            for shape in self.output_shapes()
        )
