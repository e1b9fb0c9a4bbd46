"""A digest of a model's weights alone: it stays when metadata, documentation or the order of tensors change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import onnx_ir as ir

WEIGHTS = "onnxmerge.weights_sha256"
"""Key in the metadata of what was written."""


def tensors_of(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The initializers of the main graph by name."""
    values = model.graph.initializers.items()
    return {name: value.const_value for name, value in values if value.const_value is not None}


def weights_digest(tensors: Mapping[str, ir.TensorProtocol]) -> str:
    """SHA-256 of the initializers of a graph, in the order of their names: name, type, shape and bytes of each."""
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        shape = ",".join(map(str, tensor.shape.numpy()))
        sha256.update(f"{name!r} {tensor.dtype.name} [{shape}]\n".encode("utf-8", "backslashreplace"))
        text = tensor.dtype == ir.DataType.STRING
        sha256.update(str(tensor.numpy().tolist()).encode() if text else tensor.tobytes())
    return sha256.hexdigest()
