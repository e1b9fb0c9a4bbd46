"""Check a parsed file before a graph is built from it: what it declares, that names mean one thing, and its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import onnx

from onnxmerge.errors import InputError
from onnxmerge.model.external import settle
from onnxmerge.model.tensors import nbytes, require_data, type_of
from onnxmerge.model.walk import Part, node_name, short, walk

OLDEST_IR = 3
"""The IR version from which on opsets are declared."""
DEEPEST = 40
"""Graphs inside each other: no file holds more, as protobuf reads at most a hundred messages inside each other."""

_VALUES = {
    onnx.AttributeProto.TENSOR: "t",
    onnx.AttributeProto.GRAPH: "g",
    onnx.AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    onnx.AttributeProto.TYPE_PROTO: "tp",
}
"""Where the value of an attribute stands that has no default: of numbers protobuf may leave out a zero."""


def check_proto(proto: onnx.ModelProto, label: str, path: Path | None) -> dict[str, Path]:
    """Check what can be checked before a graph is built; mend names that are not UTF-8, in place.

    Every tensor is looked at, wherever it stands: in graphs, attributes, functions, and what else a message holds.
    Those that are kept in files name them by their real paths afterwards.

    Args:
        proto: The model.
        label: What messages call it.
        path: Where it was read; None if it came in memory: then no tensor may be kept in a file.

    Returns:
        The external data files: their real paths, by the names that the model has for them.

    """
    _check_versions(proto, label)
    files: dict[str, Path] = {}
    for part in walk(proto):
        message = part.message
        if isinstance(message, onnx.TensorProto):
            files |= _check_tensor(part, message, label, path)
        elif isinstance(message, onnx.SparseTensorProto):
            name = short(message.values.name)
            own = part.around is not None and isinstance(part.around.message, onnx.AttributeProto)
            what = part.describe() if own else f"initializer {name}"
            raise InputError(f"{label}: {what} is sparse; export it dense, sparse weights cannot be merged")
        elif isinstance(message, onnx.GraphProto):
            _check_graph(part, message, label)
        elif isinstance(message, onnx.FunctionProto):
            _check_function(message, label)
        elif isinstance(message, onnx.NodeProto):
            _check_node(message, label)
        elif isinstance(message, onnx.AttributeProto):
            _check_attribute(part, message, label)
    functions = (f"{each.domain}.{each.name}.{each.overload}" for each in proto.functions)
    _require_once(functions, f"{label}: holds function")
    return files


def _check_versions(proto: onnx.ModelProto, label: str) -> None:
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise InputError(f"{label}: is not an ONNX model (no graph in it)")
    if not proto.opset_import:
        raise InputError(f"{label}: declares no opset; the file is cut off or was not written by an ONNX exporter")
    if proto.ir_version > onnx.IR_VERSION:
        raise InputError(
            f"{label}: IR version {proto.ir_version} is newer than the installed onnx knows ({onnx.IR_VERSION}); "
            "upgrade onnx and onnxruntime or export with an older IR version"
        )
    if proto.ir_version < OLDEST_IR:
        raise InputError(
            f"{label}: IR version {proto.ir_version} is not one that can be read ({OLDEST_IR} to {onnx.IR_VERSION}); "
            "export again"
        )
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain in {"", "ai.onnx"} and not 1 <= opset.version <= newest:
            raise InputError(
                f"{label}: opset {opset.version} is not one the installed onnx knows (1 to {newest}); "
                "upgrade onnx and onnxruntime or export with a known opset"
            )
    domains = ("ai.onnx" if opset.domain == "" else str(opset.domain) for opset in proto.opset_import)
    _require_once(domains, f"{label}: declares the opset of domain")


def _require_once(names: Iterable[str], what: str) -> None:
    """Raise InputError for the first name that comes twice."""
    name, count = next(iter(Counter(names).most_common(1)), ("", 0))
    if count > 1:
        raise InputError(f"{what} {short(name)} {'twice' if count == 2 else f'{count} times'}; export again")


def _check_graph(part: Part, graph: onnx.GraphProto, label: str) -> None:
    """What a graph declares must have names, each once; no value may have two producers."""
    depth, around = 0, part.around
    while around is not None:
        depth += isinstance(around.message, onnx.GraphProto)
        around = around.around
    if depth > DEEPEST:
        raise InputError(f"{label}: holds more than {DEEPEST} graphs inside each other; export again")
    where = label if part.field == "graph" else f"{label}: {part.describe()}"
    kinds = {"input": graph.input, "initializer": graph.initializer}
    if part.field == "graph":
        kinds["output"] = graph.output  # the body of a Loop may give one value twice
        if not graph.output:
            raise InputError(f"{where}: declares no output, so nothing of it counts; export again")
    for kind, declared in kinds.items():
        names = [each.name for each in declared]
        if "" in names:
            raise InputError(f"{where}: {kind} {names.index('')} has no name; export again")
        _require_once(names, f"{where}: declares {kind}")
    given = {each.name for declared in (graph.input, graph.initializer) for each in declared}
    _check_producers(graph.node, given, where)


def _check_producers(nodes: Iterable[onnx.NodeProto], given: Iterable[str], where: str) -> set[str]:
    """The names of all values, of which each must have one producer."""
    producers: dict[str, onnx.NodeProto | None] = dict.fromkeys(given)
    for node in nodes:
        if not node.op_type:
            raise InputError(f"{where}: {node_name(node)} has no operator; export again")
        for name in filter(None, node.output):
            if name in producers:
                other = producers[name]
                by = "is an input or initializer" if other is None else f"comes from {node_name(other)}"
                raise InputError(f"{where}: {node_name(node)} gives {short(name)}, which {by}; export again")
            producers[name] = node
    return set(producers)


def _check_node(node: onnx.NodeProto, label: str) -> None:
    where = f"{label}: {node_name(node)}"
    _require_once((each.name for each in node.attribute), f"{where} has attribute")
    if node.op_type == "Constant" and node.domain in {"", "ai.onnx"}:
        counts = len(node.input), len(node.attribute), len(node.output)
        if counts != (0, 1, 1):
            raise InputError(
                f"{where} has {counts[0]} inputs, {counts[1]} attributes and {counts[2]} outputs; a constant has one "
                "attribute and one output; export again"
            )
    if node.domain in {"", "ai.onnx"} and node.op_type in _BODIES:
        _check_bodies(node, where)


def _check_bodies(node: onnx.NodeProto, where: str) -> None:
    """The bodies of a node must take and give as many values as it hands in and out, as far as it has any."""
    graphs = {each.name: each.g for each in node.attribute if each.type == onnx.AttributeProto.GRAPH}
    for name in ("then_branch", "else_branch") if node.op_type == "If" else ("body",):
        if name not in graphs:
            raise InputError(f"{where} has no graph for its attribute {name!r}; export again")
    bodies = list(graphs.values())
    own, given = _BODIES[node.op_type]
    for body in bodies:
        taken = 0 if node.op_type == "If" else len(node.input)
        # Up to opset 8 a Scan was also told lengths.
        fits = len(body.input) == taken or (node.op_type == "Scan" and len(body.input) == taken - 1)
        if not fits or len(body.output) < len(node.output) + own or len(body.output) < given:
            raise InputError(
                f"{where} has {len(node.input)} inputs and {len(node.output)} outputs, but a body that takes "
                f"{len(body.input)} and gives {len(body.output)}; export again"
            )
    if len({len(body.output) for body in bodies}) > 1:
        raise InputError(f"{where} has bodies that give different numbers of outputs; export again")


_BODIES = {"If": (0, 0), "Loop": (1, 1), "Scan": (0, 0)}
"""Operators with bodies: how many outputs of the body are not handed on, and how many it has at the least."""


def _check_function(function: onnx.FunctionProto, label: str) -> None:
    where = f"{label}: function {short(function.name)}"
    if not function.name:
        raise InputError(f"{where} in domain {short(function.domain)} has no name; export again")
    known = _check_producers(function.node, function.input, where)
    for name in function.output:
        if name not in known:
            raise InputError(f"{where}: nothing produces its output {short(name)}; export again")


def _check_attribute(part: Part, attribute: onnx.AttributeProto, label: str) -> None:
    """An attribute must say what it is, and have a value or, inside a function, refer to one."""
    if attribute.type == onnx.AttributeProto.UNDEFINED:
        raise InputError(f"{label}: {part.describe()} has no type that is known; export again")
    if attribute.ref_attr_name and not part.inside(onnx.FunctionProto):
        raise InputError(f"{label}: {part.describe()} refers to one of a function, and stands in none; export again")
    field = _VALUES.get(attribute.type)
    if field is not None and not attribute.ref_attr_name and not attribute.HasField(field):
        raise InputError(f"{label}: {part.describe()} has no value; export again")


def _check_tensor(part: Part, tensor: onnx.TensorProto, label: str, path: Path | None) -> dict[str, Path]:
    """Check that a tensor holds as many bytes as its shape needs; give its external data file if it has one."""
    where = f"{label}: {part.describe()}"
    dtype = type_of(tensor, where)
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        require_data(tensor, dtype, where)
        return {}
    if path is None:
        raise InputError(f"{where} keeps its data in a file, but the model came without a path; give the path instead")
    return dict([settle(tensor, nbytes(tensor, dtype, where), where, path)])


def root(error: BaseException) -> BaseException:
    """The cause at the bottom: onnx-ir wraps errors layer by layer, with the whole graph in the message."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
