"""Run a network once and note the shape and type of every tensor in it, and the values of the small integer ones."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from onnxmerge.model.demand import demand
from onnxmerge.model.elements import partly_constant
from onnxmerge.model.exposed import Exposed
from onnxmerge.model.inference import infer
from onnxmerge.model.network import Network
from onnxmerge.model.quantised import is_constant
from onnxmerge.model.sample import find_sample
from onnxmerge.model.signature import subgraphs
from onnxmerge.model.stretches import Values
from onnxmerge.model.traits import has
from onnxmerge.model.widen import NARROW, has_bfloat16
from onnxmerge.types import Array

SMALL = 1 << 20
"""Integer tensors of at most this many elements are kept."""

COVERED = frozenset(
    np.dtype(kind)
    for kind in (
        *("float16", "float32", "float64", "bool", ml_dtypes.bfloat16),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
)
"""The types that a trace covers."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What one run says of the tensors of the main graph, inputs and initializers included, by name.

    ``values`` holds integer and boolean tensors of up to 2**20 elements, and every tensor in ``constants``, whatever
    its type. ``constants`` are the values that follow from integer and boolean initializers and from shapes alone,
    so that they are the same for every input of these shapes and in every network that pairs up with this one; what
    is computed from a float initializer or a quantised weight is not among them. ``partly`` has the elements of small
    integer tensors of which only some are constants in this sense (see ``model.elements``). Sequences, optionals and
    strings are left out. ``exposed`` is the network that ran, to be run again.
    """

    sample: dict[str, Array]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]
    values: dict[str, Array]
    constants: frozenset[str]
    partly: Mapping[str, tuple[int | None, ...]]
    exposed: Exposed

    @property
    def network(self) -> Network:
        """What was traced."""
        return self.exposed.network


def trace(network: Network, sample: Mapping[str, Array] | None = None, *, seed: int = 0) -> Trace:
    """Run the network once, with every tensor of its main graph as an output and no optimisation.

    Args:
        network: The network.
        sample: Its inputs by name; None finds some (see ``synthesize``).
        seed: Of the synthetic inputs.

    Raises:
        InputError: the network does not run on the sample, or on anything that the search tries.
        ResourceError: it takes more memory or time than it may.

    """
    wanted = demand(network)
    exposed = Exposed(network)
    notes = _Notes(_constants(network.graph), _bfloat16_values(network, wanted.proto))

    def attempt(feeds: Mapping[str, Array]) -> _Noted:
        wanted.require_room(feeds, all_kept=not exposed.large)
        found = _Noted()
        for _, (results,) in exposed.runs([{}], [feeds], [*exposed.computed]):
            notes.of_results(results, found)
        return found

    if sample is None:
        taken, noted = find_sample(network, attempt, seed=seed)
    else:
        taken, noted = dict(sample), attempt(sample)
    return _collect(exposed, notes, taken, noted)


@dataclass(frozen=True, slots=True, eq=False)
class _Noted:
    """Shapes and types of tensors, and those values that are kept."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, np.dtype[Any]] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Notes:
    """What is noted of tensors: of ``constants`` the values too; those that are ``narrow`` came in float32."""

    constants: set[str]
    narrow: set[str]

    def of(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], into: _Noted) -> bool:
        """Note a tensor; say whether its value is kept."""
        into.shapes[name], into.dtypes[name] = shape, dtype
        return name in self.constants or (dtype.kind in "iub" and int(np.prod(shape)) <= SMALL)

    def of_results(self, results: Values, into: _Noted) -> None:
        """Note what a run gave."""
        for name, result in results.items():
            if result.dtype not in COVERED:
                continue
            stored = (
                np.dtype(ml_dtypes.bfloat16) if name in self.narrow and result.dtype == np.float32 else result.dtype
            )
            if self.of(name, result.shape, stored, into):
                into.values[name] = np.asarray(result).astype(stored, copy=False)


def _collect(exposed: Exposed, notes: _Notes, sample: dict[str, Array], results: _Noted) -> Trace:
    found, network = _Noted(), exposed.network
    tensors = {name: array for name, array in sample.items() if array.dtype.kind not in "OSU"}
    for name, array in tensors.items():
        if notes.of(name, array.shape, array.dtype, found):
            found.values[name] = array
    weights = network.weights
    for name in weights:
        tensor = weights.tensor(name)
        stored = tensor.dtype != ir.DataType.STRING
        if stored and notes.of(name, tuple(tensor.shape.numpy()), tensor.dtype.numpy(), found):
            found.values[name] = weights[name]
    shapes = {**found.shapes, **results.shapes}
    values = {**found.values, **results.values}
    known = frozenset(notes.constants & shapes.keys())
    partly = partly_constant(network.model, known, shapes, values)
    return Trace(sample, shapes, {**found.dtypes, **results.dtypes}, values, known, partly, exposed)


def _constants(graph: ir.Graph) -> set[str]:
    """Names of the values that no input's value and no weight can change."""
    found = {name for name, value in graph.initializers.items() if is_constant(value)}
    for node in graph:
        if node.domain not in {"", "ai.onnx"} or has(node, "random"):
            continue
        if subgraphs(node):
            continue
        if has(node, "gives_sizes") or all(value is None or value.name in found for value in node.inputs):
            found.update(value.name for value in node.outputs if value.name)
    return found


def _bfloat16_values(network: Network, graph: onnx.ModelProto) -> set[str]:
    """Values that are bfloat16 in the model, of which ``graph`` is all but weights; its session had them in float32."""
    if not has_bfloat16(network.model):
        return set()
    with contextlib.suppress(Exception):  # what onnx cannot infer, ONNX Runtime has run: what is declared counts
        graph = infer(graph)
    values = (*graph.graph.input, *graph.graph.value_info, *graph.graph.output)
    return {value.name for value in values if value.type.tensor_type.elem_type == NARROW}
