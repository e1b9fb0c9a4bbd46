"""The digest of weights is of what a file holds, whatever holds it in memory; it hands on what it saw."""

from __future__ import annotations

import hashlib
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from onnxmerge.model.digest import weights_digest

VALUES = np.arange(6).reshape(2, 3)


@pytest.mark.parametrize(
    "tensor",
    [
        ir.Tensor(VALUES.astype(np.float32), name="t"),
        ir.Tensor(VALUES.astype(np.float32).T, name="t"),
        ir.Tensor(VALUES.astype(ml_dtypes.bfloat16), name="t"),
        ir.Tensor(VALUES.astype(ml_dtypes.int4), name="t"),
        ir.Tensor(VALUES > 2, name="t"),
        ir.Tensor(np.float64(3), name="t"),
        ir.Tensor(np.zeros((0, 3), np.float16), name="t"),
        ir.LazyTensor(lambda: ir.Tensor(VALUES), ir.DataType.INT64, ir.Shape([2, 3]), name="t"),
    ],
)
def test_bytes_are_those_of_the_file(tensor: Any) -> None:
    seen: dict[str, bytes] = {}
    found = weights_digest({"t": tensor}, lambda name, content: seen.update({name: bytes(content)}))
    shape = ",".join(map(str, tensor.shape.numpy()))
    head = f"'t' {tensor.dtype.name} [{shape}]\n".encode()
    assert seen == {"t": tensor.tobytes()}
    assert found == weights_digest({"t": tensor}) == hashlib.sha256(head + tensor.tobytes()).hexdigest()


def test_text_counts_by_what_it_says() -> None:
    one, other = (ir.StringTensor(np.array([text], dtype=object), name="t") for text in (b"a", b"b"))
    assert weights_digest({"t": one}) != weights_digest({"t": other})
