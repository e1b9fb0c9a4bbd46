"""What a graph says of the sizes of its groups, said of other ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.axes.spaces import UNIFORM
from onnxmerge.model.network import ModelSet
from onnxmerge.units.layout import TensorLayout, Typing
from onnxmerge.units.resize import Widths, resized_axes, resized_bound, resized_layout

Sizes: TypeAlias = NDArray[np.int64]

COUNTS = ("group", "groups", "num_groups", "num_heads", "q_num_heads", "kv_num_heads")
"""Attributes that say how many units of an outer group (channel groups, heads) a node works on."""


@dataclass(frozen=True, slots=True)
class Target:
    """How an operator reads the sizes of its result: what else than a size may stand there, and leaves it ``free``.

    ``once``: of one axis only.
    """

    kept: tuple[int, ...]
    free: int
    once: bool


TARGETS = {"Reshape": Target(kept=(0, -1), free=-1, once=True), "Expand": Target(kept=(1,), free=1, once=False)}

CHANNEL = 1
"""The axis that a vector beside a tensor is for, where it is not the last (norms, convolutions)."""


@dataclass(frozen=True, slots=True, eq=False)
class SizesInGraph:
    """What a graph says of the sizes of groups, said of their new ones; ``weighted`` spaces are as large as weights."""

    graph: ir.Graph
    models: ModelSet
    typing: Typing
    widths: Widths
    weighted: frozenset[str]

    def axes(self, value: ir.Value | None) -> Mapping[int, int]:
        """The new sizes of the axes of an activation or an initializer that have one."""
        layout = self._layout(value)
        if layout is None:
            return {}
        shape = resized_layout(layout, self.widths).shape
        return {axis: shape[axis] for axis in resized_axes(layout, self.widths)}

    def adapt(self, node: ir.Node) -> None:
        """Adapt one node."""
        changed = self.axes(node.outputs[0]) if node.outputs else {}
        if node.op_type in TARGETS and changed:
            self._retarget(node, changed, TARGETS[node.op_type])
        elif node.op_type == "Split":
            self._split(node)
        elif node.op_type == "Slice":
            self._slice(node)
        elif changed:
            self._repeat(node, changed)
        self._count(node)

    def _retarget(self, node: ir.Node, changed: Mapping[int, int], target_of: Target) -> None:
        """Write new sizes into a target, or over those of one that is computed.

        Where a size depends on the data too (heads in one axis with the batch) it is left open: only one can be.
        """
        target, layout = node.inputs[1], self._layout(node.outputs[0])
        if target is None or layout is None:
            return
        sizes = _constant(target)
        if sizes is not None:
            if len(sizes) == len(layout.shape):
                node.replace_input_with(1, self._renewed(node, target, _with(sizes, changed, target_of.kept)))
            return
        known = {axis: size for axis, size in changed.items() if _on(layout, axis) <= self.weighted}
        if target_of.once and len(changed) - len(known) > 1:
            return
        kept, wanted = np.ones(len(layout.shape), np.int64), np.zeros(len(layout.shape), np.int64)
        for axis in changed:
            kept[axis], wanted[axis] = 0, known.get(axis, target_of.free)
        # Arithmetic, since it is published: Where came with opset 9.
        name = f"{target.name}/{node.name}"
        rest = self._insert(node, "Mul", target, self._constant(f"{name}/kept", kept), f"{name}/rest")
        node.replace_input_with(1, self._insert(node, "Add", rest, self._constant(f"{name}/sizes", wanted), name))

    def _insert(self, before: ir.Node, operator: str, left: ir.Value, right: ir.Value, name: str) -> ir.Value:
        """The result of an operator that is put into the graph before a node."""
        made = ir.node(operator, [left, right], name=name)
        made.outputs[0].name = name
        self.graph.insert_before(before, made)
        return made.outputs[0]

    def _repeat(self, node: ir.Node, changed: Mapping[int, int]) -> None:
        """Give vectors that hold one number for all units, the same in all models, as many of it as there are units."""
        before = self._layout(node.outputs[0])
        for place, value in enumerate(node.inputs):
            layout = None if value is None else self.typing.initializers.get(str(value.name))
            if before is None or value is None or layout is None:
                continue
            first, *others = (own[str(value.name)] for own in self.models.weights)
            wide = first
            for axis, size in self._uniform(layout, before, changed).items():
                wide = np.repeat(wide.take([0], axis), size, axis)
            if wide is not first and all(np.array_equal(first, own) for own in others):
                node.replace_input_with(place, self._constant(f"{value.name}/{node.name}", wide))

    def _uniform(self, layout: TensorLayout, result: TensorLayout, changed: Mapping[int, int]) -> dict[int, int]:
        """New sizes of the axes of an operand along which nothing differs, where these are for axes that changed."""
        found = {}
        for axis, size in enumerate(layout.shape):
            aligned = len(result.shape) - len(layout.shape) + axis
            fits = [each for each in (aligned, CHANNEL) if each in changed and result.shape[each] == size]
            if fits and all(self.typing.spaces[name].fixed == UNIFORM for name in _on(layout, axis)):
                found[axis] = changed[fits[0]]
        return found

    def _split(self, node: ir.Node) -> None:
        """Give the parts of a Split their new sizes along its axis."""
        layout, axis = self._layout(node.inputs[0]), node.attributes.get("axis")
        if layout is None or not any(map(self.axes, node.outputs)):
            return
        along = (0 if axis is None else axis.as_int()) % len(layout.shape)
        shapes = [own.shape for value in node.outputs if (own := self._layout(value)) is not None]
        sizes = [self.axes(value).get(along, shape[along]) for value, shape in zip(node.outputs, shapes, strict=False)]
        if len(sizes) != len(node.outputs):
            return
        if "split" in node.attributes:
            node.attributes["split"] = ir.AttrInt64s("split", sizes)
        elif len(node.inputs) > 1 and node.inputs[1] is not None:
            node.replace_input_with(1, self._renewed(node, node.inputs[1], np.array(sizes, np.int64)))

    def _slice(self, node: ir.Node) -> None:
        """Move the bounds of a Slice with the positions between which they lie."""
        layout, bounds = self._layout(node.inputs[0]), [_constant(value) for value in node.inputs[1:4]]
        if layout is None or len(bounds) < 3 or not (moved := self.axes(node.inputs[0])):
            return
        axes = bounds[2]
        for place, own in enumerate(bounds[:2], start=1):
            value = node.inputs[place]
            if own is None or axes is None or value is None:
                continue
            fresh = own.copy()
            for index, axis in enumerate(axes % len(layout.shape)):
                size, bound = layout.shape[axis], int(own[index])
                if axis in moved and -size < bound < size:
                    new = resized_bound(layout, int(axis), self.widths, bound % size)
                    fresh[index] = new if bound >= 0 else new - moved[int(axis)]
            node.replace_input_with(place, self._renewed(node, value, fresh))

    def _count(self, node: ir.Node) -> None:
        """Count the units anew that stand on both sides of a node."""
        if not node.inputs or not node.outputs:
            return
        sides = [self._layout(value) for value in (node.inputs[0], node.outputs[0])]
        names = [set() if own is None else {name for block in own.blocks for name in block.spaces} for own in sides]
        for name in sorted(names[0] & names[1] & self.widths.keys()):
            size = self.typing.spaces[name].size
            for attribute in COUNTS:
                found = node.attributes.get(attribute)
                if found is not None and found.as_int() % size == 0:
                    count = found.as_int() // size * self.widths[name]
                    node.attributes[attribute] = ir.AttrInt64(attribute, count)

    def _layout(self, value: ir.Value | None) -> TensorLayout | None:
        name = "" if value is None else str(value.name)
        return self.typing.activations.get(name) or self.typing.initializers.get(name)

    def _renewed(self, node: ir.Node, value: ir.Value, sizes: Sizes) -> ir.Value:
        """A constant for one node in place of another that says other sizes."""
        before = _constant(value)
        if before is not None and np.array_equal(sizes, before):
            return value
        return self._constant(f"{value.name}/{node.name}", sizes)

    def _constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        if name not in self.graph.initializers:
            self.graph.register_initializer(ir.val(name, const_value=ir.Tensor(array, name=name)))
        return self.graph.initializers[name]


def _on(layout: TensorLayout, axis: int) -> set[str]:
    return {name for block in layout.blocks for name in block.axes[axis].spaces}


def _constant(value: ir.Value | None) -> Sizes | None:
    """Sizes that are written down [axes]; None where they are computed."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy().reshape(-1)


def _with(sizes: Sizes, changed: Mapping[int, int], kept: Sequence[int]) -> Sizes:
    """Sizes with those that changed at their new values; but what is kept stays so."""
    found = sizes.copy()
    for axis, size in changed.items():
        found[axis] = sizes[axis] if int(sizes[axis]) in kept else size
    return found
