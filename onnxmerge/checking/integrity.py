"""Whether a file is a whole, valid model: its data files, its graph, its weights, and that ONNX Runtime runs it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from onnxmerge.checking.finding import Finding
from onnxmerge.checking.gate import READ, Gate
from onnxmerge.checking.subject import Subject
from onnxmerge.errors import InputError
from onnxmerge.model.arrays import is_floating
from onnxmerge.model.external import find
from onnxmerge.model.runtimes.onnx_runtime import VERSION, refuses
from onnxmerge.model.tensors import type_of
from onnxmerge.model.walk import short, walk
from onnxmerge.model.widen import has_bfloat16


def _external_data(subject: Subject) -> Iterator[Finding]:
    gate, files = EXTERNAL.id, set()
    for part in walk(subject.proto):
        tensor = part.message
        if not isinstance(tensor, onnx.TensorProto) or tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = part.describe()
        if subject.path is None:
            yield _failed(gate, where, "kept in a file", "give the path of the model, not a model in memory")
            return
        location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        try:
            type_of(tensor, where)
            files.add(find(location, where, subject.path))
        except InputError as error:
            yield _failed(gate, where, short(location), str(error))
            return
    if files:
        yield _passed(gate, f"{len(files)} files in the model's folder")
    else:
        yield subject.skip(gate, "the model keeps no data in other files")


def _graph(subject: Subject) -> Iterator[Finding]:
    try:
        nodes = subject.network.graph.num_nodes()
    except InputError as error:
        told = str(error).removeprefix(f"{subject.label}: ")
        yield _failed(GRAPH.id, "", "not valid", told)
        return
    yield _passed(GRAPH.id, f"{nodes} nodes")


def _finite_weights(subject: Subject) -> Iterator[Finding]:
    weights, seen = subject.network.weights, 0
    infinite: list[str] = []
    for name in weights:
        if not is_floating(weights.tensor(name).dtype.numpy()):
            continue
        array, seen = weights[name], seen + 1
        if np.isnan(array).any():
            count = int(np.isnan(array).sum())
            yield _failed(FINITE.id, name, f"{count} nan", "train it again, or export an earlier checkpoint")
            return
        if np.isinf(array).any():
            infinite.append(name)
    for name in infinite:
        told = "masks hold infinities on purpose; weights of layers must not"
        yield Finding(FINITE.id, "warning", name, "infinite", "finite", "fail", told)
    if seen:
        yield _passed(FINITE.id, f"{seen} tensors")
    else:
        yield subject.skip(FINITE.id, "the model has no float weights")


def _loads(subject: Subject) -> Iterator[Finding]:
    """The file itself, not what reading made of it. Where it has data files, what reading made of it is opened."""
    external = any(
        isinstance(part.message, onnx.TensorProto) and part.message.data_location == onnx.TensorProto.EXTERNAL
        for part in walk(subject.proto)
    )
    if external or subject.path is None or has_bfloat16(subject.network.model):
        inputs = len(subject.runner.specs)
    else:
        refused = refuses(subject.path.read_bytes(), f"{subject.label}: ONNX Runtime does not open it")
        if refused is not None:
            yield _failed(LOADS.id, "", "refused", f"ONNX Runtime {VERSION}: {refused}")
            return
        inputs = len(subject.network.graph.inputs)
    yield _passed(LOADS.id, f"ONNX Runtime {VERSION}, {inputs} inputs")


def _runs(subject: Subject) -> Iterator[Finding]:
    try:
        outputs = subject.answers
    except InputError as error:
        yield _failed(RUNS.id, "", "does not run", str(error).removeprefix(f"{subject.label}: "))
        return
    yield _passed(RUNS.id, f"{len(outputs)} outputs")


def _passed(gate: str, measured: str) -> Finding:
    return Finding(gate, "error", "", measured, None, "pass", "")


def _failed(gate: str, where: str, measured: str, remedy: str) -> Finding:
    return Finding(gate, "error", where, measured, None, "fail", remedy)


EXTERNAL = Gate("integrity.external-data", "data files are there, inside the model's folder", _external_data)
GRAPH = Gate("integrity.graph", "the graph is valid, and what it declares is what is computed", _graph, READ[:1])
FINITE = Gate("integrity.finite-weights", "no weight is nan", _finite_weights, READ)
LOADS = Gate("integrity.loads", "ONNX Runtime opens the file", _loads, READ)
RUNS = Gate("integrity.runs", "ONNX Runtime runs it", _runs, (*READ, LOADS.id, FINITE.id))
