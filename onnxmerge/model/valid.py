"""Whether a graph is what ONNX allows: asked when it is read, of onnx itself, not after the work when it is written."""

from __future__ import annotations

import re

import onnx
import onnx_ir as ir

from onnxmerge.errors import InputError
from onnxmerge.model.check import root
from onnxmerge.model.inference import infer, without_weights
from onnxmerge.model.walk import short
from onnxmerge.text import clamped, reason, said

SMALL = 1024
"""Integers of at most this many elements may be shapes, from which others follow."""

_LONGEST = 200
"""Characters of what onnx says that are passed on."""

_CONTRADICTION = re.compile(r"Inferred (?:shape|elem type) (?:and|differs from) existing")
_POSITION = re.compile(r"^.*?\(op_type:([^,)]*)(?:, node name: ([^)]*))?\): (?:\[\w+\] )?")
_UNKNOWN = re.compile(r"No Op registered for|is deprecated in domain_version")
"""What onnx says of operators that it does not have, or no more: ONNX Runtime has some of them, and is asked next."""


def require_valid(model: ir.Model, label: str) -> None:
    """Raise InputError unless onnx accepts a normalised model, and what it declares agrees with what is computed.

    Initializers are not read: they are inputs of the graph that is checked.
    """
    try:
        proto = without_weights(model, _may_be_shape)
    except Exception as error:  # what onnx-ir reads but cannot write: it wraps whatever went wrong in its own types
        raise InputError(f"{label}: the graph cannot be written ({reason(root(error))}); export again") from error
    _require_agreement(proto, label)
    _declare(proto)
    wrong = complaint(proto)
    if wrong is not None:
        raise InputError(f"{label}: the graph is not valid ({wrong}); export again")


def complaint(model: onnx.ModelProto | str) -> str | None:
    """What onnx's checker finds wrong with a model, or a file, on one line; None where it is right."""
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # noqa: BLE001  (ValidationError, or whatever its parser raises)
        return None if _UNKNOWN.search(said(error)) else reason(error)
    return None


def require_declared(model: ir.Model, label: str) -> None:
    """Raise InputError for an initializer that is declared (as an input, or besides) with other sizes or another type.

    What is not declared of it is, afterwards.
    """
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None:
                continue
            shape = tuple(tensor.shape.numpy())
            declared = shape if value.shape is None else tuple(value.shape)
            differs = len(declared) != len(shape) or any(
                isinstance(dim, int) and dim != size for dim, size in zip(declared, shape, strict=True)
            )
            if differs or value.dtype not in {None, tensor.dtype}:
                raise InputError(
                    f"{label}: initializer {short(name)} is {tensor.dtype.name}{list(shape)}, but declared as "
                    f"{value.type}{list(map(str, declared))}; export again"
                )
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(shape)


def _may_be_shape(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype.is_integer() and 0 < tensor.size <= SMALL


def _require_agreement(proto: onnx.ModelProto, label: str) -> None:
    for info in proto.graph.output:
        if not info.type.tensor_type.shape.dim:  # what some declare where they know nothing
            info.type.tensor_type.ClearField("shape")
    try:
        infer(proto, check_type=True, strict_mode=True)
    except Exception as error:  # noqa: BLE001  (what onnx cannot infer is no fault of the model: it may be of another kind)
        text = said(error)
        if not _CONTRADICTION.search(text):
            return
        found = _POSITION.match(text)
        where = f"node {short(found[2] or '')} ({found[1]}): " if found else ""
        told = clamped(text[found.end() :] if found else text, _LONGEST)
        raise InputError(
            f"{label}: what is declared is not what is computed: {where}{told}; "
            "correct the declared shapes and types, or export again"
        ) from None


def _declare(proto: onnx.ModelProto) -> None:
    """Give inputs and outputs without a type or rank some: the checker wants it, while a model runs without."""
    for info in (*proto.graph.input, *proto.graph.output):
        tensor = info.type.tensor_type
        if info.type.WhichOneof("value") in {None, "tensor_type"}:
            tensor.elem_type = tensor.elem_type or onnx.TensorProto.FLOAT
            tensor.shape.SetInParent()
