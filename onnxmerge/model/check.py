"""Check a parsed file before a graph is built from it: what it declares, and that its tensors are all there."""

from __future__ import annotations

import math
import os
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxmerge.errors import InputError


def check_proto(proto: onnx.ModelProto, label: str, folder: Path | None) -> set[Path]:
    """Check what can be checked before a graph is built; give the external data files."""
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise InputError(f"{label}: is not an ONNX model (no graph in it)")
    if not proto.opset_import:
        raise InputError(f"{label}: declares no opset; the file is cut off or was not written by an ONNX exporter")
    if proto.ir_version > onnx.IR_VERSION:
        raise InputError(
            f"{label}: IR version {proto.ir_version} is newer than the installed onnx knows ({onnx.IR_VERSION}); "
            "upgrade onnx and onnxruntime or export with an older IR version"
        )
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain in {"", "ai.onnx"} and not 1 <= opset.version <= newest:
            raise InputError(
                f"{label}: opset {opset.version} is not one the installed onnx knows (1 to {newest}); "
                "upgrade onnx and onnxruntime or export with a known opset"
            )
    nodes, graphs = _parts(proto)
    for graph in graphs:
        if graph.sparse_initializer:
            name = graph.sparse_initializer[0].values.name
            raise InputError(
                f"{label}: initializer {name!r} is sparse; export it dense, sparse weights cannot be merged"
            )
    tensors = [(f"initializer {tensor.name!r}", tensor) for graph in graphs for tensor in graph.initializer]
    tensors += [
        (f"attribute {attribute.name!r} of node {node.name!r} ({node.op_type})", attribute.t)
        for node in nodes
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    files = (_check_tensor(tensor, f"{label}: {where}", folder) for where, tensor in tensors)
    return {file for file in files if file is not None}


def _parts(proto: onnx.ModelProto) -> tuple[list[onnx.NodeProto], list[onnx.GraphProto]]:
    """All nodes and all graphs of a model: those of subgraphs and functions too."""
    nodes = [node for function in proto.functions for node in function.node] + list(proto.graph.node)
    graphs = [proto.graph]
    for node in nodes:  # which grows on the way
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            graphs.extend(inner)
            nodes.extend(found for graph in inner for found in graph.node)
    return nodes, graphs


def _check_tensor(tensor: onnx.TensorProto, where: str, folder: Path | None) -> Path | None:
    """Check that a tensor holds as many bytes as its shape needs; give its external data file if it has one."""
    try:
        dtype = ir.DataType(tensor.data_type)
        if any(dim < 0 for dim in tensor.dims) or dtype == ir.DataType.UNDEFINED:
            raise ValueError
    except ValueError:
        raise InputError(
            f"{where} has type {tensor.data_type} and shape {list(tensor.dims)}, which no tensor has; export again"
        ) from None
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _check_external(tensor, dtype, where, folder)
    if dtype == ir.DataType.STRING:
        return None
    elements = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        expected, found = -(-elements * dtype.bitwidth // 8), len(tensor.raw_data)
        if expected != found:
            raise InputError(
                f"{where} of shape {list(tensor.dims)} needs {expected} bytes but holds {found}; export again"
            )
        return None
    try:
        held = ir.serde.deserialize_tensor(tensor).numpy().size
    except (ValueError, TypeError) as error:
        raise InputError(f"{where} of shape {list(tensor.dims)} cannot be read ({one_line(error)})") from error
    if held != elements:
        raise InputError(f"{where} of shape {list(tensor.dims)} needs {elements} elements but holds {held}")
    return None


def _check_external(tensor: onnx.TensorProto, dtype: ir.DataType, where: str, folder: Path | None) -> Path:
    """Check that external data exists, lies in the model's folder and is long enough."""
    info = {entry.key: entry.value for entry in tensor.external_data}
    if folder is None:
        raise InputError(f"{where} keeps its data in a file, but the model came without a path; give the path instead")
    location = info.get("location", "")
    file = folder / location
    elements = math.prod(tensor.dims)
    try:
        offset = int(info.get("offset") or 0)
        length = int(info.get("length") or -(-elements * dtype.bitwidth // 8))
    except ValueError:
        raise InputError(f"{where} gives no usable offset and length into {location!r}; export again") from None
    real = os.path.realpath(file)
    if not location or Path(location).is_absolute() or Path(os.path.realpath(folder)) not in Path(real).parents:
        raise InputError(
            f"{where} points at {location!r}, outside the model's folder; put the data file beside the model"
        )
    try:
        size = file.stat().st_size if file.is_file() else None
    except OSError as error:
        raise InputError(f"{where}: {file} cannot be read ({error.strerror})") from error
    if size is None:
        raise InputError(f"{where} is kept in {file}, which does not exist; put the data file beside the model")
    if length != -(-elements * dtype.bitwidth // 8) or offset < 0 or offset + length > size:
        raise InputError(
            f"{where} of shape {list(tensor.dims)} should lie at bytes {offset} to {offset + length} of {file}, "
            f"which has {size}; the data file is cut off or belongs to another model"
        )
    return Path(real)


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's message on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}..."
