"""A digest of a model's weights alone: it stays when metadata, documentation or the order of tensors change."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from onnxmerge.model.external import reopened

Content: TypeAlias = "bytes | memoryview"

WEIGHTS = "onnxmerge.weights_sha256"
"""Key in the metadata of what was written."""


def tensors_of(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The initializers of the main graph by name."""
    values = model.graph.initializers.items()
    return {name: value.const_value for name, value in values if value.const_value is not None}


def weights_digest(
    tensors: Mapping[str, ir.TensorProtocol], put: Callable[[str, Content], None] = lambda _name, _content: None
) -> str:
    """SHA-256 of the initializers of a graph, in the order of their names: name, type, shape and bytes of each.

    ``put`` is given the bytes of each on the way, by name, so that who writes them need not read them again. It runs in
    a thread of its own, while the next tensor is computed: two are in memory at a time.
    """
    sha256 = hashlib.sha256()

    def take(name: str, head: bytes, content: Content) -> None:
        sha256.update(head)
        sha256.update(content)
        put(name, content)

    with ThreadPoolExecutor(1) as behind:
        before: Future[None] | None = None
        for name in sorted(tensors):
            tensor = tensors[name]
            shape = ",".join(map(str, tensor.shape.numpy()))
            head = f"{name!r} {tensor.dtype.name} [{shape}]\n".encode("utf-8", "backslashreplace")
            content = _content(tensor)
            if before is not None:
                before.result()
            before = behind.submit(take, name, head, content)
            del content
        if before is not None:
            before.result()
    return sha256.hexdigest()


def _content(tensor: ir.TensorProtocol) -> Content:
    """The bytes of a tensor as a file has them (of text those of its list); no copy where they lie so in memory."""
    if tensor.dtype == ir.DataType.STRING:
        return str(tensor.numpy().tolist()).encode()
    if isinstance(tensor, ir.ExternalTensor):
        tensor = reopened(tensor)
    array = tensor.numpy()
    packed = tensor.dtype.bitwidth != 8 * array.dtype.itemsize
    if packed or sys.byteorder != "little" or not (array.flags.c_contiguous and array.dtype.isnative):
        return tensor.tobytes()
    return array.reshape(-1).view(np.uint8).data
