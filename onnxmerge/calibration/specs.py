"""What a model takes, and whether an array is that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxmerge.errors import InputError
from onnxmerge.text import clamped
from onnxmerge.types import Array

_NAMES = 120
"""Characters of a list of names in a message."""

_EXTENDED_FLOATS = {np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A model's input. ``shape`` has None for a dynamic dimension, and is None itself if the rank is unknown."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        shape = "of any shape" if self.shape is None else "x".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name!r} ({self.dtype} {shape or 'scalar'})"


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs that a model declares.

    Raises:
        InputError: an input is no tensor of numbers (a string, a sequence).

    """
    specs: list[InputSpec] = []
    for value in model.graph.inputs:
        if not isinstance(value.type, ir.TensorType) or value.type.dtype in {ir.DataType.STRING, ir.DataType.UNDEFINED}:
            raise InputError(f"input {value.name!r} takes {value.type}; only tensors of numbers can be calibrated with")
        shape = None
        if value.shape is not None:
            shape = tuple(dim if isinstance(dim, int) and dim > 0 else None for dim in value.shape)
        specs.append(InputSpec(value.name or "", shape, np.dtype(value.type.dtype.numpy())))
    return tuple(specs)


def fixed_batch(specs: Sequence[InputSpec]) -> int | None:
    """The batch that every input fixes along axis 0, or None where it is free."""
    return next((spec.shape[0] for spec in specs if spec.shape), None)


def is_batched(specs: Sequence[InputSpec]) -> bool:
    """Whether axis 0 of every input is the batch: all dynamic, or all fixed to one number.

    Elsewhere (a scalar, a state with its layers on axis 0) data cannot be cut into batches: it is fed as it comes.
    """
    return all(spec.shape for spec in specs) and len({spec.shape[0] for spec in specs if spec.shape}) == 1


def select(names: Sequence[str], specs: Sequence[InputSpec], origin: str) -> dict[str, str]:
    """Which of the given arrays is for which input: {input: array name}. A single array suits a one-input model.

    Raises:
        InputError: an input has no array.

    """
    if len(specs) == len(names) == 1:
        return {specs[0].name: names[0]}
    missing = [spec for spec in specs if spec.name not in names]
    if missing:
        others = clamped(", ".join(sorted(set(names) - {spec.name for spec in specs})), _NAMES) or "no other"
        wanted = clamped(", ".join(map(str, missing)), _NAMES)
        raise InputError(f"{origin}: nothing for input {wanted}; found {others}: name one array after each input")
    return {spec.name: spec.name for spec in specs}


def check_shape(shape: Sequence[int], spec: InputSpec, origin: str, *, batched: bool) -> None:
    """Compare with the declared shape; the length of axis 0 is free where it is cut into batches.

    Raises:
        InputError: the rank or a fixed dimension differs.

    """
    if spec.shape is None:
        return
    first = 1 if batched else 0
    wrong = len(shape) != len(spec.shape) or any(
        expected not in (None, found) for expected, found in zip(spec.shape[first:], shape[first:], strict=True)
    )
    if wrong:
        found = "x".join(map(str, shape)) or "scalar"
        raise InputError(f"{origin}: input {spec} expected, found shape {found}")


def conform(array: Array, spec: InputSpec, origin: str, first: int = 0) -> Array:
    """The array in the input's dtype, where no value is lost but the last digits of a float.

    Floats convert to floats, integers and whole floats to integers that can hold them, 0 and 1 to truth values.

    ``first`` is the number of the first row within ``origin``, for the message.

    Raises:
        InputError: the kind differs, a value does not fit, or is not finite.

    """
    if array.dtype == spec.dtype:
        converted = np.ascontiguousarray(array)
    elif _is_float(array.dtype) and _is_float(spec.dtype):
        with np.errstate(over="ignore"):
            converted = np.ascontiguousarray(array, dtype=spec.dtype)
    elif array.dtype.kind in "iubf" and spec.dtype.kind in "iub" and _is_whole(array):
        _check_range(array, spec, origin)
        converted = np.ascontiguousarray(array, dtype=spec.dtype)
    else:
        raise InputError(
            f"{origin}: input {spec} expected, found {array.dtype}; convert it as the model was trained (scale, type)"
        )
    if _is_float(spec.dtype) and not (finite := np.isfinite(converted)).all():
        where = first + int(np.argwhere(~finite)[0][0]) if converted.ndim else first
        raise InputError(
            f"{origin}: input {spec}: NaN, infinite or overflowing value in sample {where}; remove or mend it"
        )
    return converted.reshape(array.shape)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype in _EXTENDED_FLOATS


def _is_whole(array: Array) -> bool:
    return array.dtype.kind != "f" or bool((np.isfinite(array) & (array == np.trunc(array))).all())


def _check_range(array: Array, spec: InputSpec, origin: str) -> None:
    low, high = (0, 1) if spec.dtype.kind == "b" else (np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max)
    if array.size and (int(array.min()) < low or int(array.max()) > high):
        raise InputError(f"{origin}: input {spec}: {array.dtype} values {array.min()}..{array.max()} do not fit")


def conform_all(
    arrays: Mapping[str, Array], specs: Sequence[InputSpec], origin: str, *, batched: bool, first: int = 0
) -> dict[str, Array]:
    """One feed (or batch of rows) in the inputs' dtypes, checked as above.

    Raises:
        InputError: an input is missing, differs in shape or kind, or the inputs hold unequal numbers of rows.

    """
    chosen = select(tuple(arrays), specs, origin)
    feed: dict[str, Array] = {}
    for spec in specs:
        array = np.asarray(arrays[chosen[spec.name]])
        if batched and spec.shape is not None and array.ndim == len(spec.shape) - 1:
            array = array[None]  # one sample without its batch axis
        check_shape(array.shape, spec, origin, batched=batched)
        feed[spec.name] = conform(array, spec, origin, first)
    if batched:
        check_rows({name: array.shape[0] for name, array in feed.items()}, origin)
    return feed


def check_rows(rows: Mapping[str, int], origin: str) -> None:
    """All inputs hold the same number of samples.

    Raises:
        InputError: they do not.

    """
    if len(set(rows.values())) > 1:
        raise InputError(f"{origin}: inputs hold different numbers of samples: {dict(rows)}")
