"""A network of many weights run a stretch of nodes at a time, so that only a stretch's weights are in memory.

Nodes are taken in their order until the weights that they read come to ``STRETCH`` bytes. What the stretch gives that
a later one reads is kept until then; all versions of the network and all inputs go through a stretch before the next
one is opened. Its weights are fed to it, so that those of a file are read where they lie, and none is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxmerge.errors import InputError, StructureError
from onnxmerge.memory import room_for
from onnxmerge.model.network import SOURCE, label
from onnxmerge.model.quantised import is_constant
from onnxmerge.model.runtime import Value
from onnxmerge.model.session import Session, fitting, inputs_of, open_session, prepared, wide
from onnxmerge.model.signature import operands
from onnxmerge.types import Array

LARGE = 10**8
"""Bytes of weights from which on a network is large: it is run by stretches, and proved on one sample."""
STRETCH, STRETCH_PART = 1 << 26, 16
"""Bytes of weights in a stretch at most, and the part of the memory that may be taken; one tensor may be larger."""

Values = dict[str, Value]


def is_large(model: ir.Model) -> bool:
    """Whether the weights of a model are too many to be copied for every look at it."""
    return sum(_nbytes(value) for value in model.graph.initializers.values()) > LARGE


def run_by_stretches(
    model: ir.Model,
    versions: Sequence[Mapping[str, Array]],
    feeds: Sequence[Mapping[str, Array]],
    outputs: Sequence[str],
    *,
    provider: str = "cpu",
    stretch: int | None = None,
) -> Iterator[tuple[int, list[Values]]]:
    """Run every version of a model on every feed: (number of the feed, for each version outputs by name), by stretch.

    Args:
        model: The model, which is not changed.
        versions: Weights that replace initializers, of the same names in each; they are read stretch by stretch.
        feeds: Inputs by name.
        outputs: Names of values of the main graph. Each comes once, with the stretch that computes it.
        provider: Where to run it.
        stretch: Bytes of weights that are in memory at a time; by default as there is room.

    Raises:
        InputError: ONNX Runtime does not accept the model, or it does not run on the feeds.
        ResourceError: it takes more memory or time than it may.

    """
    now = versions[0]
    ready = prepared(model, {name: lambda name=name: now[name] for name in now}, outputs)
    given = [fitting(inputs_of(ready), feed, label(model)) for feed in feeds]
    wanted, nodes = set(outputs), list(ready.graph)
    known = _without_nodes(ready, wanted)
    stored = ready.graph.initializers
    for number, own in enumerate(given) if known else ():
        every = list[Values]()
        for now in versions:  # noqa: B007  (what the functions above read)
            every += [{name: own[name] if name in own else _value(stored[name]) for name in known}]
        yield number, every
    held = [[dict(own) for _ in versions] for own in given]
    last, start = _last_reads(nodes), 0
    size = room_for(STRETCH, STRETCH_PART) if stretch is None else stretch
    for end in [*_ends(nodes, size), len(nodes)]:
        made = [str(value.name) for node in nodes[start:end] for value in node.outputs if value.name]
        names = [name for name in made if name in wanted or last.get(name, -1) >= end]
        computed: list[list[Values]] = [[] for _ in feeds]
        for place, now in enumerate(versions):  # noqa: B007  (the same)
            session, fed = _opened(ready, held[0][place], names, label(model), provider)
            weights = {name: _value(stored[name]) for name in fed}
            for before, into in zip(held, computed, strict=True):
                every_input = {**weights, **before[place]}
                into.append(session.values({name: every_input[name] for name in session.inputs}))
            del weights  # before those of the next version are read
        later = [name for name in names if last.get(name, -1) >= end]
        if not all(each[name].dtype is not None for found in computed for each in found for name in later):
            continue  # what is no tensor is not handed on: all this is run again, with the next stretch
        for number, found in enumerate(computed):
            yield number, [{name: each[name] for name in names if name in wanted} for each in found]
            held[number] = [
                {name: value for name, value in {**old, **new}.items() if last.get(name, -1) >= end}
                for old, new in zip(held[number], found, strict=True)
            ]
        start = end


def arrays(values: Values) -> dict[str, Array]:
    """Those of the values that are tensors, as arrays."""
    return {name: np.asarray(value) for name, value in values.items() if value.dtype is not None}


def _without_nodes(model: ir.Model, wanted: set[str]) -> list[str]:
    """The wanted values that no node computes: inputs and initializers."""
    graph = model.graph
    return [str(value.name) for value in graph.outputs if value.producer() is None and value.name in wanted]


def _value(initializer: ir.Value) -> Value:
    if initializer.const_value is None:
        raise InputError(f"initializer {initializer.name!r} has no data; export the model again")
    found: Value = wide(initializer.const_value.numpy())
    return found


def may_change(initializer: ir.Value) -> bool:
    """Whether networks that pair up may hold other values there. All else stays in the graph: shapes follow from it."""
    tensor = initializer.const_value
    return tensor is not None and tensor.dtype != ir.DataType.STRING and not is_constant(initializer)


def feedable(initializer: ir.Value) -> bool:
    """Whether numpy has its type, or it is widened to one that it has."""
    dtype = initializer.dtype if initializer.const_value is None else initializer.const_value.dtype
    return dtype is not None and (dtype == ir.DataType.BFLOAT16 or dtype.numpy().kind != "V")


def _opened(
    model: ir.Model, held: Values, outputs: Sequence[str], where: str, provider: str
) -> tuple[Session, list[str]]:
    """A session over the nodes between values that are held and the outputs, and which weights it is to be fed."""
    graph = ir.convenience.extract(model.graph, list(held), outputs)
    for value in graph.inputs:
        value.type, value.shape = ir.TensorType(_type_of(held[str(value.name)])), None
    graph.inputs[:] = [value for value in graph.inputs if value.uses() or value.is_graph_output()]
    graph.meta[SOURCE] = where
    part = ir.Model(graph, ir_version=model.ir_version, functions=tuple(model.functions.values()))
    fed = [str(value.name) for value in graph.initializers.values() if may_change(value) and feedable(value)]
    return open_session(part, provider=provider, fed=fed), fed


def _type_of(value: Value) -> ir.DataType:
    if value.dtype is None:
        raise StructureError("what is no tensor cannot be handed from one stretch to the next; report the model")
    return ir.DataType.from_numpy(value.dtype)


def _last_reads(nodes: Sequence[ir.Node]) -> dict[str, int]:
    """The place of the last node that reads each value."""
    return {str(value.name): place for place, node in enumerate(nodes) for value in operands(node)}


def _ends(nodes: Sequence[ir.Node], stretch: int) -> list[int]:
    """Where stretches end: in front of the node whose weights would be too many."""
    found, size = list[int](), 0
    read = set[ir.Value]()
    for place, node in enumerate(nodes):
        new = [value for value in dict.fromkeys(operands(node)) if value.is_initializer() and value not in read]
        own = sum(map(_nbytes, new))
        if size and size + own > stretch:
            found.append(place)
            size, read = 0, set()
        size += own
        read.update(new)
    return found


def _nbytes(initializer: ir.Value) -> int:
    return 0 if initializer.const_value is None else initializer.const_value.nbytes
