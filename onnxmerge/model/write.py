"""Write a model whole or not at all: staged beside the target, checked there, then published (`publication`)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxmerge.errors import InputError
from onnxmerge.model.digest import WEIGHTS, Content, tensors_of, weights_digest
from onnxmerge.model.network import SOURCE, label
from onnxmerge.model.paths import absolute
from onnxmerge.model.publication import Publication, naming
from onnxmerge.model.runtimes.onnx_runtime import refuses
from onnxmerge.model.session import lazy, open_session, own_cause
from onnxmerge.model.stretches import LARGE
from onnxmerge.model.valid import complaint
from onnxmerge.model.widen import has_bfloat16
from onnxmerge.model.wire import skeleton, write_model
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
        if size > EMBEDDED:
            _write_apart(model, path, files.staged(apart))
        elif size > LARGE:
            _write_within(model, path)
        else:
            proto = ir.to_proto(model)
            _record(proto, weights_digest(tensors_of(ir.from_proto(proto))))
            path.write_bytes(proto.SerializeToString(deterministic=True))
    except Exception as error:
        cause = own_cause(error)
        if cause is None or cause is error:
            raise
        raise cause from None
    return path


def _write_within(model: ir.Model, path: Path) -> None:
    """Write a large model of one file."""
    proto, large = _without_large(model)
    names = [tensor.name for tensor in proto.graph.initializer]
    with path.open("wb") as stream:

        def fill(places: list[int]) -> None:
            _fill(stream, model, proto, dict(zip((name for name in names if name in large), places, strict=True)))

        write_model(stream, proto, [large.get(name) for name in names], fill)


def _write_apart(model: ir.Model, path: Path, data: Path) -> None:
    """Write a model whose large tensors are in a file of their own."""
    proto, large = _without_large(model)
    places, end = dict[str, int](), 0
    for tensor in proto.graph.initializer:
        if tensor.name in large:
            places[tensor.name], size = end, large[tensor.name]
            end += size
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", places[tensor.name]), ("length", size)):
                tensor.external_data.add(key=key, value=str(value))
    with data.open("wb") as stream:
        _fill(stream, model, proto, places)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _without_large(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The model as a message in which its large tensors hold no data, and how many bytes each of them has."""
    kept = {name: tensor for name, tensor in tensors_of(model).items() if tensor.dtype != ir.DataType.STRING}
    large = {name: tensor for name, tensor in kept.items() if tensor.nbytes > INLINE}
    values = model.graph.initializers
    for name, tensor in large.items():  # what stands beside the data of a tensor is written of an empty one
        empty = np.zeros(0, tensor.dtype.numpy())
        values[name].const_value = ir.Tensor(empty, dtype=tensor.dtype, name=name, doc_string=tensor.doc_string)
    proto = ir.to_proto(model)
    for own in proto.graph.initializer:
        if own.name in large:
            own.dims[:] = large[own.name].shape.numpy()
            own.ClearField("raw_data")
            values[own.name].const_value = large[own.name]
    return proto, {name: tensor.nbytes for name, tensor in large.items()}


def _fill(stream: IO[bytes], model: ir.Model, proto: onnx.ModelProto, places: Mapping[str, int]) -> None:
    """Put tensors where they belong, each computed once, and the digest of all into the metadata of the message."""
    tensors = tensors_of(model)

    def put(name: str, content: Content) -> None:
        if name not in places:
            return
        if len(content) != tensors[name].nbytes:
            raise ValueError(f"{name}: {len(content)} bytes were to be written instead of {tensors[name].nbytes}")
        stream.seek(places[name])
        stream.write(content)

    _record(proto, weights_digest(tensors, put))


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
    refused = refuses(str(path), f"{where}: ONNX Runtime does not open the result")
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
