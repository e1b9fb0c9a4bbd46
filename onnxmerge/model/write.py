"""Write a model whole or not at all: staged beside the target, checked there, then published (`publication`)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxmerge.errors import InputError
from onnxmerge.model.digest import WEIGHTS, tensors_of, weights_digest
from onnxmerge.model.network import SOURCE, label
from onnxmerge.model.paths import absolute
from onnxmerge.model.publication import Publication, naming
from onnxmerge.model.runtimes.onnx_runtime import refuses
from onnxmerge.model.session import lazy, open_session, own_cause
from onnxmerge.model.stretches import LARGE
from onnxmerge.model.valid import complaint
from onnxmerge.model.widen import has_bfloat16
from onnxmerge.model.wire import Data, skeleton, write_model
from onnxmerge.types import Array

EMBEDDED = 2_000_000_000
"""Weights of at most this many bytes go into the file itself; protobuf ends at 2**31."""
INLINE = 1024
"""Beside external data, tensors of at most this many bytes stay in the file."""


def save_network(
    model: ir.Model,
    weights: Mapping[str, Array | Callable[[], Array]],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str],
    together: Publication | None = None,
) -> None:
    """Write a model with other weights. The given model is not changed.

    The file keeps the model's opset, IR version, names, producer and metadata. The same arguments give the same bytes.
    Weights of more than 2 GB go to ``path`` + ".data". ``weights`` are read one at a time. The result is checked by
    onnx and opened in ONNX Runtime before it takes the target's place; on any failure, an interrupt included, nothing
    is left behind and an existing file stays as it is.

    Args:
        model: The template.
        weights: Arrays, or functions that give them, for initializers by name; the others stay as they are.
        path: Where to.
        metadata: Entries to add to ``metadata_props``, in place of those of the same name.
        together: Where the file waits for others, to be published with them; by default it is published at once.

    Raises:
        InputError: the folder does not exist or cannot be written, the disk is full, an array has another shape or
            dtype than the initializer it is for, or the result is not a valid model.

    """
    target = absolute(path)
    ready = _prepared(model, weights, metadata)
    with Publication() as own:
        files = own if together is None else together
        with naming(target):
            _check(_write(ready, target, files), label(model))
        own.publish()


def data_file(path: Path) -> Path:
    """Where the weights of a model at ``path`` are, if they are too many for one file."""
    return path.with_name(f"{path.name}.data")


def _prepared(
    model: ir.Model, weights: Mapping[str, Array | Callable[[], Array]], metadata: Mapping[str, str]
) -> ir.Model:
    copy = model.clone()
    initializers = copy.graph.initializers
    for name in weights:
        if name not in initializers:
            raise InputError(f"{label(model)}: has no initializer {name!r} to write")
    for name, value in initializers.items():
        if value.const_value is not None:
            value.const_value = lazy(value.const_value, name, weights if name in weights else None, label(model))
    for name in [name for name, value in initializers.items() if not value.uses() and not value.is_graph_output()]:
        initializers.pop(name)  # another took its place: ONNX Runtime would warn of it
    copy.metadata_props.update({key: metadata[key] for key in sorted(metadata)})
    if copy.ir_version < 4:  # up to version 3 initializers had to be inputs too
        passes.AddInitializersToInputsPass()(copy)
    for value in initializers.values():
        if not value.is_graph_input() and not value.is_graph_output() and value.const_value is not None:
            value.type, value.shape = None, None  # told by its data; quantisers that transpose that trip over it
    return copy


def _write(model: ir.Model, target: Path, files: Publication) -> Path:
    """Stage the model, and its data file where it needs one; the path of the staged model."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    apart = data_file(target)
    if size > EMBEDDED:
        files.stage(apart)  # in front of the model: whoever sees the model sees its data too
    path = files.stage(target)
    try:
        if LARGE < size <= EMBEDDED:
            _stream(model, path)
            return path
        if size > EMBEDDED:
            ir.save(model, path, external_data=apart.name, size_threshold_bytes=INLINE)
            proto, written = onnx.load(path, load_external_data=False), ir.load(path)
        else:
            proto = ir.to_proto(model)
            written = ir.from_proto(proto)
        _record(proto, weights_digest(tensors_of(written)))
        path.write_bytes(proto.SerializeToString(deterministic=True))
    except Exception as error:
        cause = own_cause(error)
        if cause is None or cause is error:
            raise
        raise cause from None
    return path


def _stream(model: ir.Model, path: Path) -> None:
    """Write a model tensor by tensor, so that no more than one of them is in memory."""
    values = list(model.graph.initializers.values())
    kept = [value.const_value for value in values]
    large = [tensor is not None and tensor.dtype != ir.DataType.STRING and tensor.nbytes > INLINE for tensor in kept]
    for value, tensor, apart in zip(values, kept, large, strict=True):
        if apart and tensor is not None:  # what stands beside the data of a tensor is written of an empty one
            empty = np.zeros(0, tensor.dtype.numpy())
            value.const_value = ir.Tensor(empty, dtype=tensor.dtype, name=value.name, doc_string=tensor.doc_string)
    proto = ir.to_proto(model)
    data: list[Data | None] = []
    for own, tensor, apart in zip(proto.graph.initializer, kept, large, strict=True):
        data.append(Data(tensor.nbytes, partial(_put, tensor)) if apart and tensor is not None else None)
        if apart and tensor is not None:
            own.dims[:] = tensor.shape.numpy()
            own.ClearField("raw_data")

    def finish(places: list[int]) -> None:
        found: dict[str, ir.TensorProtocol] = {}
        left = iter(places)
        for value, tensor, apart in zip(values, kept, large, strict=True):
            if tensor is not None:
                name, shape = str(value.name), ir.Shape(tensor.shape.numpy())
                found[name] = (
                    ir.ExternalTensor(str(path), next(left), tensor.nbytes, tensor.dtype, shape=shape, name=name)
                    if apart
                    else tensor
                )
        _record(proto, weights_digest(found))

    with path.open("wb") as stream:
        write_model(stream, proto, data, finish)


def _put(tensor: ir.TensorProtocol, stream: IO[bytes]) -> None:
    if isinstance(tensor, ir.LazyTensor | ir.Tensor | ir.ExternalTensor):
        tensor.tofile(stream)  # without a copy, where it is laid out as it is stored
    else:
        stream.write(tensor.tobytes())


def _record(proto: onnx.ModelProto, digest: str) -> None:
    """Write the digest of the weights into the metadata, in place of one that the template had."""
    others = [entry for entry in proto.metadata_props if entry.key != WEIGHTS]
    del proto.metadata_props[:]
    proto.metadata_props.extend([*others, onnx.StringStringEntryProto(key=WEIGHTS, value=digest)])


def _check(path: Path, where: str) -> None:
    """Have onnx check the file, and ONNX Runtime open it once."""
    if path.stat().st_size > LARGE and (rest := _without_data(path)) is not None:
        path = path.with_name(f"{path.name}.check")
        path.write_bytes(rest)
    wrong = complaint(str(path))
    if wrong is not None:
        raise InputError(f"{where}: the result is not a valid model: {wrong}; nothing was written")
    model = ir.load(path)
    if has_bfloat16(model):  # of which ORT has too few kernels on the CPU
        model.graph.meta[SOURCE] = where
        open_session(model)
        return
    refused = refuses(str(path))
    if refused is not None:
        raise InputError(f"{where}: ONNX Runtime does not open the result: {refused}; nothing was written")


def _without_data(path: Path) -> bytes | None:
    """A written file as a model whose large tensors lie in that file, where they are mapped and not copied."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        try:
            return skeleton(view, path.name)
        finally:
            view.release()
