"""A network of many weights run a stretch of nodes at a time, so that only a stretch's weights are in memory.

Nodes are taken in their order until the weights that they read come to ``STRETCH`` bytes. What the stretch gives that
a later one reads is kept until then; all versions of the network and all inputs go through a stretch before the next
one is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxmerge.errors import InputError
from onnxmerge.model.network import SOURCE, label
from onnxmerge.model.session import open_session, prepared, running
from onnxmerge.model.signature import operands
from onnxmerge.types import Array

LARGE = 10**8
"""Bytes of weights from which on a network is large: it is run by stretches, and proved on one sample."""
STRETCH = 1 << 27
"""Bytes of weights in a stretch; one tensor may be larger."""

_TYPES = {f"tensor({dtype.name.lower()})": dtype for dtype in ir.DataType}
"""ORT's names of the types of tensors."""

Values = dict[str, ort.OrtValue]


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
    stretch: int = STRETCH,
) -> Iterator[tuple[int, list[Values]]]:
    """Run every version of a model on every feed: (number of the feed, for each version outputs by name), by stretch.

    Args:
        model: The model, which is not changed.
        versions: Weights that replace initializers, of the same names in each; they are read stretch by stretch.
        feeds: Inputs by name.
        outputs: Names of values of the main graph. Each comes once, with the stretch that computes it.
        provider: Where to run it.
        stretch: Bytes of weights that are in memory at a time.

    Raises:
        InputError: ONNX Runtime does not accept the model, or it does not run on the feeds.
        ResourceError: it takes more memory or time than it may.

    """
    now = versions[0]
    ready = prepared(model, {name: lambda name=name: now[name] for name in now}, outputs)
    given = [_given(ready, feed, label(model)) for feed in feeds]
    wanted, nodes = set(outputs), list(ready.graph)
    known = _without_nodes(ready, wanted)
    for number, own in enumerate(given) if known else ():
        every = []
        for now in versions:  # noqa: B007  (what the functions above read)
            stored = {name: _value(ready.graph.initializers[name]) for name in known if name not in own}
            every.append({**stored, **{name: own[name] for name in known if name in own}})
        yield number, every
    held = [[dict(own) for _ in versions] for own in given]
    last, start = _last_reads(nodes), 0
    for end in [*_ends(nodes, stretch), len(nodes)]:
        made = [str(value.name) for node in nodes[start:end] for value in node.outputs if value.name]
        names = [name for name in made if name in wanted or last.get(name, -1) >= end]
        computed: list[list[Values]] = [[] for _ in feeds]
        for place, now in enumerate(versions):  # noqa: B007  (the same)
            session = _opened(ready, held[0][place], names, label(model), provider)
            reads = [value.name for value in session.get_inputs()]
            for before, into in zip(held, computed, strict=True):
                read = {name: before[place][name] for name in reads}
                with running(session, label(model), _sizes(read)) as options:
                    into.append(dict(zip(names, session.run_with_ort_values(names, read, options), strict=True)))
        later = [name for name in names if last.get(name, -1) >= end]
        if not all(each[name].data_type() in _TYPES for found in computed for each in found for name in later):
            continue  # what is no tensor is not handed on: all this is run again, with the next stretch
        for number, found in enumerate(computed):
            yield number, [{name: each[name] for name in names if name in wanted} for each in found]
            held[number] = [
                {name: value for name, value in {**old, **new}.items() if last.get(name, -1) >= end}
                for old, new in zip(held[number], found, strict=True)
            ]
        start = end


def arrays(values: Values) -> dict[str, Array]:
    """Those of the values that are tensors; copies, as a value may be a view of an array that lives no longer."""
    return {name: value.numpy().copy() for name, value in values.items() if value.data_type() in _TYPES}


def _given(model: ir.Model, feed: Mapping[str, Array], where: str) -> Values:
    """The inputs as ONNX Runtime takes them (bfloat16 in float32), all there and none too many."""
    wanted = [str(value.name) for value in model.graph.inputs]
    for name in wanted:
        if name not in feed:
            raise InputError(f"{where}: input {name!r} is missing; it takes {', '.join(map(repr, wanted))}")
    for name in feed:
        if name not in wanted:
            raise InputError(f"{where}: has no input {name!r}; it takes {', '.join(map(repr, wanted))}")
    return {name: _of_array(feed[name]) for name in wanted}


def _of_array(array: Array) -> ort.OrtValue:
    wide = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(wide).reshape(array.shape))


def _without_nodes(model: ir.Model, wanted: set[str]) -> list[str]:
    """The wanted values that no node computes: inputs and initializers."""
    graph = model.graph
    return [str(value.name) for value in graph.outputs if value.producer() is None and value.name in wanted]


def _value(initializer: ir.Value) -> ort.OrtValue:
    if initializer.const_value is None:
        raise InputError(f"initializer {initializer.name!r} has no data; export the model again")
    return _of_array(initializer.const_value.numpy())


def _opened(model: ir.Model, held: Values, outputs: Sequence[str], where: str, provider: str) -> ort.InferenceSession:
    """A session over the nodes between values that are held and the outputs."""
    graph = ir.convenience.extract(model.graph, list(held), outputs)
    for value in graph.inputs:
        value.type, value.shape = ir.TensorType(_TYPES[held[str(value.name)].data_type()]), None
    graph.inputs[:] = [value for value in graph.inputs if value.uses() or value.is_graph_output()]
    graph.meta[SOURCE] = where
    part = ir.Model(graph, ir_version=model.ir_version, functions=tuple(model.functions.values()))
    return open_session(part, provider=provider)


def _sizes(values: Values) -> dict[str, Array]:
    """Arrays of the values' sizes, without their content: what bounds loops asks for no more."""
    return {
        name: np.broadcast_to(np.zeros((), _TYPES[value.data_type()].numpy()), value.shape())
        for name, value in values.items()
    }


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
