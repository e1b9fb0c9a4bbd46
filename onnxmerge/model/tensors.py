"""Whether a tensor in a file holds what its type and shape say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
import onnx_ir as ir

from onnxmerge.errors import InputError

MOST_AXES = 32
"""Numpy before version 2 has no more."""
LARGEST = 2**63 - 1
"""Bits of a tensor: numpy refuses larger ones even where an axis is empty."""

_KEPT_IN = {
    "float_data": {ir.DataType.FLOAT, ir.DataType.COMPLEX64},
    "double_data": {ir.DataType.DOUBLE, ir.DataType.COMPLEX128},
    "int64_data": {ir.DataType.INT64},
    "uint64_data": {ir.DataType.UINT64, ir.DataType.UINT32},
    "string_data": {ir.DataType.STRING},
}
"""The types that each field is for; `int32_data` is for all others."""
_COMPLEX = {ir.DataType.COMPLEX64, ir.DataType.COMPLEX128}


def type_of(tensor: onnx.TensorProto, where: str) -> ir.DataType:
    """The type of a tensor whose type and shape are possible. Raises InputError for another one."""
    dims = list(tensor.dims)
    dtype = _known_type(tensor.data_type)
    if dtype is not None and len(dims) <= MOST_AXES and min(dims, default=0) >= 0:
        size = 1 if dtype == ir.DataType.STRING else dtype.bitwidth
        if size * math.prod(max(dim, 1) for dim in dims) <= LARGEST:
            return dtype
    raise InputError(f"{where} has type {tensor.data_type} and shape {shown(dims)}, which no tensor has; export again")


def _known_type(number: int) -> ir.DataType | None:
    try:
        dtype = ir.DataType(number)
    except ValueError:
        return None
    return None if dtype == ir.DataType.UNDEFINED else dtype


def nbytes(tensor: onnx.TensorProto, dtype: ir.DataType, where: str) -> int:
    """How many bytes the data of a tensor takes. Raises InputError for strings, which have no fixed size."""
    if dtype == ir.DataType.STRING:
        raise InputError(f"{where} keeps strings as bytes, which have no fixed size; export again")
    bits: int = math.prod(tensor.dims) * dtype.bitwidth
    return -(-bits // 8)


def require_data(tensor: onnx.TensorProto, dtype: ir.DataType, where: str) -> None:
    """Raise InputError unless a tensor holds its data itself, in the field for its type, and as much as it must."""
    raw = tensor.HasField("raw_data")
    filled = [name for name in (*_KEPT_IN, "int32_data") if len(getattr(tensor, name))]
    wanted = next((name for name, types in _KEPT_IN.items() if dtype in types), "int32_data")
    wrong = [name for name in filled if raw or name != wanted]
    if wrong or tensor.HasField("segment"):
        raise InputError(
            f"{where} of type {dtype.name} holds data in {(wrong or ['segments'])[0]}, where it cannot be; export again"
        )
    elements = math.prod(tensor.dims)
    if raw:
        needed, held, unit = nbytes(tensor, dtype, where), len(tensor.raw_data), "bytes"
    else:
        needed, held, unit = elements, len(getattr(tensor, wanted)), "elements"
        if dtype in _COMPLEX:
            needed = 2 * elements
        elif dtype != ir.DataType.STRING and dtype.bitwidth < 8:  # several in a byte, a byte in an int32
            needed, unit = nbytes(tensor, dtype, where), "bytes"
    if needed != held:
        raise InputError(
            f"{where} of shape {shown(list(tensor.dims))} needs {needed} {unit} but holds {held}; export again"
        )


def shown(dims: Sequence[int]) -> str:
    """A shape as a message may hold it."""
    text = str(list(dims))
    return text if len(text) <= 100 else f"{text[:100]}...]"
