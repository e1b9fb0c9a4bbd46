"""A language model with another vocabulary: its tokens in another order, some left out, others put in.

The vocabulary is an axis of the network: token ids look rows of a table up, and a head gives a number for each token.
Which axes of which initializers these are follows from the typing, whatever they are called. They are brought to
another token list all together, and the network is run before and after: each token must do what it did under its old
id. A token that the model lacks gets the mean of the rows of all that it has, which whoever merges it leaves out again
(``model.owned``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.axes.infer import type_graph
from onnxmerge.axes.operators import OperatorTable
from onnxmerge.errors import InputError
from onnxmerge.model.arrays import is_floating
from onnxmerge.model.hoist import trace_inside
from onnxmerge.model.lazy_weights import Overlay
from onnxmerge.model.lookups import Table, handed_on, hands_on, table_of, tables_of
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.owned import along
from onnxmerge.model.sample import SampleInput, synthesize
from onnxmerge.model.session import open_session
from onnxmerge.model.signature import STANDARD
from onnxmerge.model.trace import Trace
from onnxmerge.model.traits import has
from onnxmerge.resizing.network import resized_network
from onnxmerge.resizing.proof import same_output
from onnxmerge.text import reason
from onnxmerge.types import Array, Arrays, Positions
from onnxmerge.units.layout import TensorLayout, Typing

_PIECE = 1 << 10
"""Rows that are added up at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyAxes:
    """Where a network's vocabulary stands: ``axes`` of initializers, the last axis of ``outputs``; as ``spaces``.

    ``inputs`` are those that hold token ids.
    """

    axes: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    spaces: frozenset[str]


def looked_up(graph: ir.Graph) -> dict[str, list[Table]]:
    """The tables that each integer input looks up, of inputs that do."""
    inputs = [value for value in graph.inputs if value.dtype is not None and value.dtype.is_integer()]
    found = {str(value.name): list(tables_of(value)) for value in inputs}
    return {name: tables for name, tables in found.items() if tables}


def vocabulary_rows(network: Network, tokens: int, *, whole: bool, label: str) -> int:
    """How many rows the table of tokens has: as many as the list, or more where the list need not be ``whole``.

    ``label`` is that of the list. Raises InputError where no table fits, or it is not clear which.
    """
    rows = sorted({table.rows for tables in looked_up(network.graph).values() for table in tables})
    if not rows:
        raise InputError(f"{network.label}: no integer input looks rows of a table up, so it has no vocabulary")
    wider = [each for each in rows if each > tokens]
    if tokens in rows and (whole or not wider):  # a list that leaves rows out may be of a wider table
        return tokens
    if not whole and len(wider) == 1 and tokens not in rows:
        return wider[0]
    found = ", ".join(f"{each:,}" for each in rows)
    raise InputError(
        f"{label}: has {tokens:,} tokens, but the tables of {network.label} that ids look up have rows: {found}; give "
        "a token for each row of the embedding"
    )


def vocabulary_axes(
    trace: Trace, weights: Sequence[Arrays], rows: int, operators: OperatorTable | None = None
) -> tuple[VocabularyAxes, Typing]:
    """Where the vocabulary of ``rows`` tokens stands in a traced network, and the typing that says so.

    Raises InputError where that cannot be told for sure.
    """
    network = trace.network
    typing = type_graph(network, trace, [_told_apart(own, rows) for own in weights], operators)
    inputs, spaces = _embedded(network, typing, rows)
    taken = {space for _, _, space in typing.consumed}
    outputs = []
    for value in network.graph.outputs:
        layout = typing.activations.get(str(value.name))
        space = None if layout is None or not layout.shape else _space(layout, len(layout.shape) - 1)
        if space is None or typing.spaces[space].size != rows or space in taken or not _floating(value, trace):
            continue
        if any(space in block.spaces for own in typing.initializers.values() for block in own.blocks):
            spaces.add(space)
            outputs.append(str(value.name))
    axes = dict(_carried(network, trace, typing, spaces))
    _require_all(network, typing, axes, rows)
    return VocabularyAxes(axes, inputs, tuple(outputs), frozenset(spaces)), typing


def with_vocabulary(
    network: Network,
    own: Positions,
    rows: int,
    inputs: Mapping[str, SampleInput],
    operators: OperatorTable | None = None,
) -> Network:
    """The network with other tokens: ``own`` [tokens] is the row of each in the network, -1 where it lacks it.

    ``inputs`` are what is known of its inputs, but for the values of token ids. Raises InputError where its vocabulary
    cannot be brought to other tokens.
    """
    shapes = {name: given.shape if isinstance(given, np.ndarray) else tuple(given) for name, given in inputs.items()}
    ids = {name for name, tables in looked_up(network.graph).items() if any(table.rows == rows for table in tables)}
    sample = synthesize(network, shapes=shapes)
    known = {name: given for name, given in inputs.items() if isinstance(given, np.ndarray) and name not in ids}
    trace = trace_inside(network, {**sample, **known})
    found, typing = vocabulary_axes(trace, [network.weights], rows, operators)
    places = np.full(rows, -1, np.int64)
    places[own[own >= 0]] = np.flatnonzero(own >= 0)
    if not (places >= 0).any():
        raise InputError(f"{network.label}: has none of the tokens that the merged model is to have; leave it out")
    _require_fixed_ids(trace, found, places, len(own))
    widths = dict.fromkeys(found.spaces, len(own)) if len(own) != rows else {}
    alone = ModelSet(network, (network.weights,), (network,))
    made = resized_network(alone, typing, widths)
    graph, weights = made.model.graph, network.weights
    for name, axis in found.axes.items():
        _replace(graph.initializers[name], weights.tensor(name), axis, own)
    for value, before in zip(graph.outputs, network.graph.outputs, strict=True):
        if value.name in found.outputs and before.shape is not None:
            value.shape = ir.Shape([*list(before.shape)[:-1], len(own)])
    _prove(network, made, found, places, trace.sample)
    return made


def _told_apart(weights: Arrays, rows: int) -> Arrays:
    """Weights in which no axis as long as the vocabulary is uniform: a bias of zeros is of tokens all the same."""
    changed: dict[str, Array] = {}
    for name in weights:
        array = weights[name]
        for axis in range(array.ndim if is_floating(array.dtype) else 0):
            if array.shape[axis] == rows and np.array_equal(array.take(0, axis), array.take(-1, axis)):
                shape = [-1 if each == axis else 1 for each in range(array.ndim)]
                changed[name] = np.broadcast_to(np.arange(rows, dtype=np.float32).reshape(shape), array.shape)
    return Overlay(weights, changed)


def _embedded(network: Network, typing: Typing, rows: int) -> tuple[tuple[str, ...], set[str]]:
    """The inputs that hold token ids, and the spaces along which they look rows up."""
    tables = {
        name: [table for table in found if table.rows == rows] for name, found in looked_up(network.graph).items()
    }
    tables = {name: found for name, found in tables.items() if found}
    first = next(iter(tables.values()), [])
    for name, found in tables.items():
        if not {table.value for table in first} & {table.value for table in found}:
            raise InputError(
                f"{network.label}: inputs {next(iter(tables))!r} and {name!r} look up different tables of {rows:,} "
                "rows; which of them has the tokens cannot be told"
            )
    spaces = set()
    for table in (table for found in tables.values() for table in found):
        layout = typing.initializers.get(str(table.value.name))
        space = None if layout is None else _space(layout, table.axis)
        if space is None:
            raise InputError(f"{network.label}: rows of table {table.value.name!r} are not looked up one by one")
        spaces.add(space)
    if not spaces:
        raise InputError(f"{network.label}: no integer input looks up a table of {rows:,} rows")
    return tuple(tables), spaces


def _space(layout: TensorLayout, axis: int) -> str | None:
    """The one space that an axis consists of, in order; None where it is made of several."""
    parts = {(block.axes[axis].spaces, block.axes[axis].positions.tobytes()) for block in layout.blocks}
    own = layout.blocks[0].axes[axis]
    plain = len(parts) == 1 and len(own.spaces) == 1
    return own.spaces[0] if plain and np.array_equal(own.positions, np.arange(layout.shape[axis])) else None


def _floating(value: ir.Value, trace: Trace) -> bool:
    dtype = trace.dtypes.get(str(value.name))
    return dtype is not None and is_floating(dtype)


def _carried(network: Network, trace: Trace, typing: Typing, spaces: Collection[str]) -> Iterator[tuple[str, int]]:
    """The initializers that have something for each token, and along which axis."""
    for name in network.graph.initializers:
        layout = typing.initializers.get(name) or typing.activations.get(name)
        if layout is None:
            continue
        found = [
            axis
            for axis in range(len(layout.shape))
            if any(space in spaces for block in layout.blocks for space in block.axes[axis].spaces)
        ]
        if not found:
            continue
        if name not in typing.initializers:
            raise InputError(
                f"{network.label}: initializer {name!r} ({trace.dtypes[name]}) says something of each token, "
                "and has no mean; export the model without it"
            )
        if len(found) > 1 or _space(layout, found[0]) is None:
            raise InputError(
                f"{network.label}: initializer {name!r} has tokens beside something else, or twice; only tables and "
                "heads with one axis of tokens can be brought to another vocabulary"
            )
        yield name, found[0]


def _require_all(network: Network, typing: Typing, axes: Mapping[str, int], rows: int) -> None:
    """Raise InputError where another axis is as long as the vocabulary, and may be of tokens or not."""
    for name, layout in typing.initializers.items():
        for axis, size in enumerate(layout.shape):
            names = {space for block in layout.blocks for space in block.axes[axis].spaces}
            known = axes.get(name) == axis or any(typing.spaces[each].free for each in names)
            if size == rows and not known and not any((name, axis, each) in typing.consumed for each in names):
                raise InputError(
                    f"{network.label}: axis {axis} of initializer {name!r} has {rows:,} positions, as many as "
                    "there are tokens, and whether they are tokens cannot be told"
                )


def _require_fixed_ids(trace: Trace, found: VocabularyAxes, places: Positions, tokens: int) -> None:
    """Raise InputError where the network itself says something of ids that are another token's among ``tokens`` now.

    It may compare them with a constant, or put one in: the id of padding, of a token that begins a text.
    """
    still = np.array_equal(places, np.arange(len(places)))
    for value in (each for each in trace.network.graph.inputs if each.name in found.inputs):
        for current in handed_on(value):
            for node, slot in current.uses():
                compares = node.op_type == "Equal" and node.domain in STANDARD
                puts_in = hands_on(node) and has(node, "joins", "selects")
                if table_of(node, slot) is not None or has(node, "gives_sizes") or (hands_on(node) and not puts_in):
                    continue
                told = f"{trace.network.label}: node {node.name!r} ({node.op_type})"
                if not (compares or puts_in or still):
                    raise InputError(f"{told} computes with token ids, which change; export the model without it")
                for number in _constants(trace, node):
                    kept = 0 <= number < len(places) and places[number] == number
                    if not kept and (puts_in or 0 <= number < tokens):
                        raise InputError(
                            f"{told} knows token id {number}, which is another token's in the merged vocabulary; give "
                            "the models in another order, or export them without it"
                        )


def _constants(trace: Trace, node: ir.Node) -> list[int]:
    """The whole numbers that a node reads as constants, as floats too."""
    values = [value for value in node.inputs if value is not None]
    arrays = [trace.values[str(value.name)] for value in values if value.name in trace.constants & trace.values.keys()]
    stored = [value.const_value for value in values if value.name not in trace.constants]
    arrays += [tensor.numpy() for tensor in stored if tensor is not None and tensor.dtype.is_floating_point()]
    wide = [array.astype(np.float64).reshape(-1) for array in arrays if array.dtype.kind in "iuf"]
    return [int(number) for array in wide for number in array if np.isfinite(number) and number == int(number)]


def _replace(value: ir.Value, tensor: ir.TensorProtocol, axis: int, own: Positions) -> None:
    """Give an initializer the rows of other tokens, those that are lacking the mean of all; read when asked for."""
    name, shape = str(value.name), [int(size) for size in tensor.shape.numpy()]
    shape[axis] = len(own)
    lacking = np.flatnonzero(own < 0)
    mean = cache(lambda: _mean(tensor.numpy(), axis))

    def read() -> ir.TensorProtocol:
        found = tensor.numpy().take(np.maximum(own, 0), axis)
        if lacking.size:
            found[along(axis, lacking)] = mean()
        return ir.Tensor(found, dtype=tensor.dtype, name=name)

    value.const_value = ir.LazyTensor(read, tensor.dtype, ir.Shape(shape), name=name)
    value.shape = ir.Shape(shape)


def _mean(array: Array, axis: int) -> Array:
    """The mean along an axis, of length 1 then, of what is finite; 0 where nothing is."""
    shape = [1 if each == axis else size for each, size in enumerate(array.shape)]
    total, count = np.zeros(shape), np.zeros(shape)
    for piece in np.array_split(array, -(-array.shape[axis] // _PIECE), axis):
        wide = piece.astype(np.float64)
        finite = np.isfinite(wide)
        total += np.where(finite, wide, 0.0).sum(axis=axis, keepdims=True)
        count += finite.sum(axis=axis, keepdims=True)
    return np.asarray(total / np.maximum(count, 1)).astype(array.dtype)


def _prove(before: Network, after: Network, found: VocabularyAxes, places: Positions, sample: Arrays) -> None:
    """Raise InputError unless every token that was kept does what it did."""
    kept = np.flatnonzero(places >= 0)
    old = {name: _kept(array, kept, places) if name in found.inputs else array for name, array in sample.items()}
    new = {name: places[array].astype(array.dtype) if name in found.inputs else array for name, array in old.items()}
    outputs = [str(value.name) for value in before.graph.outputs]
    try:
        expected = open_session(before.model, outputs=outputs).run(old)
        given = open_session(after.model, outputs=outputs).run(new)
    except InputError as error:
        raise InputError(
            f"{before.label}: does not run with other tokens ({reason(error)}); export it so that the number of "
            "tokens stands in its weights alone"
        ) from error
    for name, array in expected.items():
        one, other = array, given[name]
        if name in found.outputs:
            one, other = array[..., kept], other[..., places[kept]]
        if not same_output(one, other):
            raise InputError(
                f"{before.label}: output {name!r} changes when its tokens take other ids; export the model so that it "
                "gives logits, and ids are looked up and nothing else"
            )


def _kept(ids: Array, kept: NDArray[np.int64], places: Positions) -> Array:
    """Token ids with those of tokens that are left out replaced by others."""
    inside = np.clip(ids, 0, len(places) - 1)
    return np.where(places[inside] >= 0, inside, kept[inside % len(kept)]).astype(ids.dtype)
