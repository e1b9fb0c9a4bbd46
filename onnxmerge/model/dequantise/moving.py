"""Operators that move integers about without computing with them, or take the greatest: they do so with floats."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from onnxmerge.model.codes import Plain
from onnxmerge.model.dequantise.operands import (
    array_of,
    input_of,
    is_initializer,
    operator_of,
    zeros_of,
)
from onnxmerge.model.dequantise.own_scales import Quantiser
from onnxmerge.model.dequantise.translation import Integers, Translation
from onnxmerge.model.traits import has

_MOVES = ("reshapes", "takes", "repeats", "joins", "inert")
"""Traits of what moves integers without computing with them."""


def look_up(translation: Translation, node: ir.Node) -> None:
    """Know a table of integers whose rows are taken before a DequantizeLinear scales them, by the scale that they are.

    It is read before all others, as the table stands in front.
    """
    first = value = input_of(node, 0)
    while value is not None and (maker := value.producer()) is not None and _moves(maker):
        value = input_of(maker, 0)
    if value is None or value is first or not is_initializer(value):
        return
    operand = translation.operand(node, 0)
    if array_of(operand.scale).size != 1:
        raise translation.refusal(node, "scales a part of a weight along an axis")
    form = Plain(*translation.codes(node, value), None)
    translation.integers[value] = translation.weight(node, replace(operand, value=value), form, place=1)


def pass_on(translation: Translation, node: ir.Node) -> None:
    """Put an operator in place of one that reads integers, whose outputs are the float twins of its outputs."""
    states = [translation.integers.get(value) if value is not None else None for value in node.inputs]
    first = _moved(translation, node, states)
    form = _form_behind(translation, node, first.form)
    inputs = list(node.inputs)
    for slot, state in enumerate(states):
        if state is not None:
            inputs[slot] = state.floats
            if isinstance(state.owner, Quantiser) and isinstance(first.owner, Quantiser):
                translation.notes.agree(state.owner, first.owner)
    attributes = [*node.attributes.values()]
    new = ir.Node(node.domain, node.op_type, inputs, attributes, num_outputs=len(node.outputs), name=node.name)
    translation.graph.insert_after(node, new)
    for value, floats in zip(node.outputs, new.outputs, strict=True):
        floats.name, floats.type, floats.shape = value.name, first.floats.type, value.shape
        value.name = translation.graph.names.fresh(f"{value.name}/codes")
        translation.integers[value] = replace(first, floats=floats, form=form)
        if isinstance(first.owner, Quantiser):
            translation.notes.add_activation(first.owner, floats)


def _moved(translation: Translation, node: ir.Node, states: list[Integers | None]) -> Integers:
    """The first of the integers that an operator moves, by whose scale all of them are.

    Raises InputError where it does not move them alone.
    """
    known = [state for state in states if state is not None]
    alone = states[0] is not None and not (has(node, "joins") and None in states)
    if not _moves(node) or not alone or any(each.is_computed for each in known) or len({*map(_scaling, known)}) != 1:
        raise translation.refusal(node, "computes with integers that stand for floats")
    if any(each.is_weight != known[0].is_weight for each in known):
        raise translation.refusal(node, "puts weights and activations of integers side by side")
    return known[0]


def _form_behind(translation: Translation, node: ir.Node, form: Plain | None) -> Plain | None:
    """How the codes of a weight lie behind an operator that moves it. Raises InputError where that cannot be told."""
    if form is None or form.axis is None or has(node, "inert"):
        return form
    if node.op_type == "Transpose":
        perm = node.attributes.get("perm")
        order = [*reversed(range(len(form.shape)))] if perm is None else [*perm.as_ints()]
        return replace(form, shape=tuple(form.shape[axis] for axis in order), axis=order.index(form.axis))
    shape = node.outputs[0].shape
    if node.op_type == "Reshape" and shape is not None and shape.is_static() and shape.numpy() == form.shape:
        return form
    raise translation.refusal(node, "moves a weight whose scales lie along an axis")


def _scaling(integers: Integers) -> tuple[bytes, bytes]:
    """What is equal for integers by equal scales and zero points."""
    return array_of(integers.scale).tobytes(), zeros_of(integers.zero).tobytes()


def _moves(node: ir.Node) -> bool:
    return has(node, *_MOVES) or operator_of(node) == ("", "MaxPool")
