"""Read an ONNX model lazily and bring it into the one form that every later stage expects."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError
from onnx_ir.passes import common as passes

from onnxmerge.errors import InputError
from onnxmerge.model.check import check_proto, root
from onnxmerge.model.crashes import require_harmless
from onnxmerge.model.digest import tensors_of
from onnxmerge.model.external import confine, embed_attributes, remember
from onnxmerge.model.functions import drop_shadowed, require_inlinable
from onnxmerge.model.hoist import captured_values
from onnxmerge.model.lift import complete_calls, detach_subgraph_outputs, lift_scalers
from onnxmerge.model.names import name_uniquely
from onnxmerge.model.network import HOLDS_NAN, SOURCE, UNREAD_NAN, Network, Weights
from onnxmerge.model.paths import absolute
from onnxmerge.model.stretches import LARGE
from onnxmerge.model.valid import require_declared, require_valid
from onnxmerge.model.walk import short
from onnxmerge.model.wire import skeleton
from onnxmerge.text import reason

CHUNK = 1 << 24
LARGEST = 2**31 - 1
"""Bytes of a file that protobuf reads."""


def read_network(source: str | os.PathLike[str] | ir.Model | onnx.ModelProto) -> Network:
    """Read a model and normalise its graph.

    Afterwards functions are inlined; tensor-valued Constant nodes are initializers, as are the numbers of a Scaler, and
    those of subgraphs belong to the main graph, so that its initializers are *all* weights; initializers are no graph
    inputs; nodes stand in topological order, none is dead; every node and every value, across subgraphs, has a name of
    its own. Weights stay in the file's buffer or, for external data, on disk. A model that was handed over in memory
    is not changed.

    Raises:
        InputError: the file is missing, no file, empty, cut off, too large, not ONNX, of an opset or IR version newer
            than the installed onnx, lacks its external data (or points outside its folder), or its graph is not valid.

    """
    if isinstance(source, ir.Model):
        label = _label(source.graph.name)
        copy = source.clone()
        confine(copy, label)
        return _normalised(copy, None, _digest_model(copy), label)
    if isinstance(source, onnx.ModelProto):
        proto, label = onnx.ModelProto(), _label(source.graph.name)
        proto.CopyFrom(source)
        check_proto(proto, label, None)
        model = _deserialize(proto, label)
        return _normalised(model, None, _digest_proto(proto, model), label)
    if "\0" in str(source):
        raise InputError(f"{short(str(source), 200)[1:-1]}: is no path, as it holds a NUL byte; give that of a model")
    path = absolute(source)
    proto, sha256 = parse(path)
    files = _beside(path, check_proto(proto, str(path), path))
    model = _deserialize(proto, str(path))
    remember(model)
    for file in dict.fromkeys(files[name] for name in sorted(files)):
        _look_through(file, sha256, model)
    return _normalised(model, path, sha256.hexdigest(), str(path))


def _label(name: str | None) -> str:
    return f"model {short(name or 'without a name')}"


def data_files(path: Path) -> set[Path]:
    """The files that a model keeps tensors in, beside its own. Raises InputError where it cannot be read."""
    proto = _parsed(path, lambda _: None)
    return set(_beside(path, check_proto(proto, str(path), absolute(path))).values())


def _beside(path: Path, files: Mapping[str, Path]) -> dict[str, Path]:
    """Without the model's own file, in which the tensors of a large one are left."""
    own = Path(os.path.realpath(path))
    return {name: file for name, file in files.items() if file != own}


def read_tensors(proto: onnx.ModelProto, path: Path | None) -> dict[str, ir.TensorProtocol]:
    """The initializers of a parsed model, which is not changed, as they stand in the file. Raises InputError."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    where = "the model" if path is None else str(path)
    check_proto(copy, where, path)
    model = _deserialize(copy, where)
    remember(model)
    return tensors_of(model)


def parse(path: Path) -> tuple[onnx.ModelProto, hashlib._Hash]:
    """Parse a file: the message as it stands, and the SHA-256 so far.

    Large tensors of a large file are kept outside of the message, in that file (see ``model.wire``). Raises InputError
    where it is no file, or not ONNX.
    """
    sha256 = hashlib.sha256()
    return _parsed(path, sha256.update), sha256


def _parsed(path: Path, see: Callable[[mmap.mmap], None]) -> onnx.ModelProto:
    """Parse a file, whose content ``see`` is given."""
    proto = onnx.ModelProto()
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a directory; give the .onnx file in it")
        if path.exists() and not path.is_file():  # to open a pipe would wait for whoever writes to it
            raise InputError(f"{path}: is not a regular file; expected an ONNX model")
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if not size:
                raise InputError(f"{path}: is empty; expected an ONNX model")
            if size > LARGEST:
                raise InputError(
                    f"{path}: is larger than 2 GB, which protobuf cannot read; save it again with external data "
                    "(onnx.save_model(..., save_as_external_data=True))"
                )
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                see(mapped)
                _parse_into(proto, mapped, path)
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return proto


def _parse_into(proto: onnx.ModelProto, mapped: mmap.mmap, path: Path) -> None:
    view = memoryview(mapped)
    try:
        proto.ParseFromString((skeleton(view, path.name) if len(view) > LARGE else None) or view)
    except DecodeError:
        hint = "a Git LFS pointer, fetch the real file" if mapped[:20].startswith(b"version https://git-") else ""
        raise InputError(f"{path}: {hint or 'is not an ONNX model, or is cut off; export or copy it again'}") from None
    finally:
        view.release()


def _look_through(file: Path, sha256: hashlib._Hash, model: ir.Model) -> None:
    """Read a data file once: its digest goes on, and of every tensor in it is noted whether it holds nan."""
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    held = [each for each in tensors if isinstance(each, ir.ExternalTensor) and each.path == str(file)]
    with file.open("rb") as stream:

        def read(until: int | None) -> None:
            while chunk := stream.read(CHUNK if until is None else min(CHUNK, max(until - stream.tell(), 0))):
                sha256.update(chunk)

        for tensor in sorted(held, key=lambda each: (each.offset or 0) + each.nbytes):
            read((tensor.offset or 0) + tensor.nbytes)
            tensor.meta[HOLDS_NAN] = Weights({"it": tensor}).holds_nan("it")  # while what was read is at hand
        read(None)


def _deserialize(proto: onnx.ModelProto, label: str) -> ir.Model:
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # onnx-ir wraps whatever went wrong in its own and in built-in types
        raise InputError(f"{label}: the graph cannot be built ({reason(root(error))})") from error
    model.graph.meta[SOURCE] = label
    return model


def _normalised(model: ir.Model, path: Path | None, sha256: str, label: str) -> Network:
    """Apply the passes that ``read_network`` describes, in place, and see that the result is valid."""
    model.graph.meta[SOURCE] = label
    _check_defined(model, label)
    try:
        require_declared(model, label)
        drop_shadowed(model)
        if model.functions:
            require_inlinable(model, label)
            complete_calls(model)
            passes.InlinePass()(model)
            passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
        passes.RemoveInitializersFromInputsPass()(model)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        lift_scalers(model)
        detach_subgraph_outputs(model)
        name_uniquely(model)
        passes.LiftSubgraphInitializersToMainGraphPass()(model)
        held = dict(model.graph.initializers)
        passes.RemoveUnusedNodesPass()(model)
        unread = [value for name, value in held.items() if name not in model.graph.initializers]
        model.graph.meta[UNREAD_NAN] = tuple(str(value.name) for value in unread if _holds_nan(value))
        _sort(model, label)
        embed_attributes(model, label)
    except InputError:
        raise
    except Exception as error:  # a pass that fails says so with whatever its checks raise
        raise InputError(f"{label}: the graph is not valid ({reason(root(error))})") from error
    require_harmless(model, label)
    require_valid(model, label)
    return Network(path=path, model=model, sha256=sha256)


def _sort(model: ir.Model, label: str) -> None:
    """Put nodes in topological order. Raises InputError, with a node that is in it, where the graph has a cycle."""
    try:
        model.graph.sort()
    except ValueError as error:
        for graph in model.graphs():
            reads = {node: [value.producer() for value in _read(node)] for node in graph}
            known = {node: [other for other in found if other in reads] for node, found in reads.items()}
            try:
                TopologicalSorter(known).prepare()
            except CycleError as found:
                node, by = found.args[1][:2]
                raise InputError(
                    f"{label}: the graph has a cycle: node {short(node.name)} ({node.op_type}) reads what follows from "
                    f"its own results, by way of node {short(by.name)} ({by.op_type}); export again"
                ) from None
        raise InputError(f"{label}: the graph is not valid ({reason(error)}); export again") from error


def _read(node: ir.Node) -> list[ir.Value]:
    """The values that a node reads, its bodies included."""
    return [value for value in (*node.inputs, *captured_values(node)) if value is not None]


def _holds_nan(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and Weights({"it": tensor}).holds_nan("it")


def _check_defined(model: ir.Model, label: str) -> None:
    """Every operand must be an input, an initializer or some node's output, and every output one of its own graph's."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    every = [inner for outer in graphs for inner in (outer, *outer.subgraphs())]
    known = {id(value) for graph in every for value in (*graph.inputs, *graph.initializers.values())}
    for graph in every:
        for node in graph:
            for value in node.inputs:
                if value is not None and value.producer() is None and id(value) not in known:
                    raise InputError(
                        f"{label}: node {short(node.name or next((o.name for o in node.outputs), None))} "
                        f"({short(node.op_type)[1:-1]}) reads {short(value.name)}, which nothing produces; export again"
                    )
        for value in graph.outputs:
            if value.producer() is None and id(value) not in known:
                raise InputError(f"{label}: output {short(value.name)} is produced by no node; export again")


def _digest_proto(proto: onnx.ModelProto, model: ir.Model) -> str:
    """SHA-256 of a model in memory as it is serialised; of one that is too large for that, of the graph built of it."""
    try:
        return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    except (ValueError, EncodeError):
        return _digest_model(model)


def _digest_model(model: ir.Model) -> str:
    """SHA-256 of a model in memory: of its structure, then of each tensor, so that no size limit applies."""
    sha256 = hashlib.sha256()
    bare = model.clone()
    for graph in bare.graphs():
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None:
                continue
            sha256.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            sha256.update(tensor.tobytes() if tensor.dtype != ir.DataType.STRING else str(tensor.numpy()).encode())
            value.const_value = None
    for graph in bare.graphs():
        for name in [name for name, value in graph.initializers.items() if value.const_value is None]:
            graph.initializers.pop(name)
    sha256.update(ir.to_proto(bare).SerializeToString(deterministic=True))
    return sha256.hexdigest()
