"""What networks declare of the sizes of their inputs, and how much of it they hold to.

One exporter leaves the batch free, another fixes the batch that it traced with: what computes is the same. So networks
are given one declaration before they are paired up: a size is free where one of them leaves it free and all of them run
with another one. The reverse is met too: a free batch is declared, and a Reshape inside fixes it. That shows when a
batch of the data is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.errors import InputError, ResourceError
from onnxmerge.model.demand import demand
from onnxmerge.model.network import Network
from onnxmerge.model.sample import synthesize
from onnxmerge.model.session import open_session
from onnxmerge.types import Array

Axis: TypeAlias = tuple[int, int]
"""The place of an input and one of its axes."""

Samples: TypeAlias = Callable[[Network], Mapping[str, NDArray[Any]]]
"""Finds inputs that a network runs on."""

MOST_SIZES = 32
"""So many sizes that stand in a network's constants are tried as its batch."""
LARGEST = 1024
"""No network is taken to be fixed to a batch larger than this."""
CLOSE = 1e-3
"""Relative difference of a sample's outputs alone and in a batch up to which they count as the same."""


@dataclass(frozen=True, slots=True)
class _Dispute:
    """Axes that some networks fix to ``size`` and others leave free; the latter give all of them one ``symbol``."""

    axes: tuple[Axis, ...]
    size: int
    symbol: str

    @property
    def is_batch(self) -> bool:
        return all(axis == 0 for _, axis in self.axes)


def declared_alike(networks: Sequence[Network], samples: Samples = synthesize) -> tuple[Network, ...]:
    """The networks with inputs that are declared alike, as freely as any of them does and all of them can run.

    A size that one network fixes and another leaves free becomes free where every network runs with another size too
    (for the batch: giving each sample what it got), else fixed; a rank that one does not declare is that of the others.
    What contradicts each other (two sizes, two ranks, other inputs) stays, for pairing to refuse. A network whose
    declarations are right already is returned itself.
    """
    fixed = _declared(networks)
    if fixed is None or len(networks) < 2:
        return tuple(networks)
    free = [
        dispute
        for dispute in _disputes(networks, fixed)
        if all(_runs_freely(network, fixed, dispute, samples) for network in networks)
    ]
    symbols = {axis: dispute.symbol for dispute in free for axis in dispute.axes}
    wanted = [
        None if dims is None else [symbols.get((place, axis), dim) for axis, dim in enumerate(dims)]
        for place, dims in enumerate(fixed)
    ]
    return tuple(_redeclared(network, wanted) for network in networks)


def only_batch(graph: ir.Graph, try_batch: Callable[[int], object]) -> int | None:
    """The batch that a network with a free one is fixed to inside; None where it takes any, or none that is tried.

    ``try_batch`` runs so many samples at once, and raises InputError where the network does not take them. Its
    ResourceError is raised on: it says nothing of the batch.
    """

    def runs(size: int) -> bool:
        try:
            try_batch(size)
        except ResourceError:
            raise
        except InputError:
            return False
        return True

    if runs(3) and runs(2):
        return None
    return next(filter(runs, (1, 2, 3, *_sizes_inside(graph))), None)


def batch_inside(network: Network, feed: Mapping[str, Array], provider: str = "cpu") -> int | None:
    """The batch that a network is fixed to inside (``only_batch``), found by running as many rows as it takes.

    Raises ResourceError where even one row takes more memory or time than it may.
    """
    demand(network).require_room(resized_batch(feed, 1))
    session = open_session(network.model, provider=provider)
    return only_batch(network.graph, lambda size: session.run(resized_batch(feed, size)))


def resized_batch(feed: Mapping[str, Array], size: int) -> dict[str, Array]:
    """A feed of ``size`` rows, those of ``feed`` over and over."""
    return {name: resized(array, 0, size) for name, array in feed.items()}


def with_batch(network: Network, size: int) -> Network:
    """The network with ``size`` declared along axis 0 of every input."""
    model = network.model.clone()
    for value in model.graph.inputs:
        if value.shape is not None and len(value.shape):
            value.shape = ir.Shape([size, *list(value.shape)[1:]])
    return Network(network.path, model, network.sha256)


def _declared(networks: Sequence[Network]) -> list[list[int | str | None] | None] | None:
    """For each input its sizes: a number where one network fixes it, else a symbol or None; None for no known rank.

    None for all where the networks contradict each other.
    """
    if len({len(network.graph.inputs) for network in networks}) != 1:
        return None
    found: list[list[int | str | None] | None] = []
    for values in zip(*(network.graph.inputs for network in networks), strict=True):
        shapes = [value.shape for value in values if value.shape is not None]
        if not shapes:
            found.append(None)
            continue
        if len({len(shape) for shape in shapes}) != 1:
            return None
        dims: list[int | str | None] = []
        for each in zip(*shapes, strict=True):
            sizes = {size for dim in each if (size := _size(dim)) is not None}
            if len(sizes) > 1:
                return None
            dims.append(sizes.pop() if sizes else next(filter(None, map(_symbol, each)), None))
        found.append(dims)
    return found


def _disputes(networks: Sequence[Network], fixed: Sequence[Sequence[int | str | None] | None]) -> list[_Dispute]:
    """The sizes that some networks fix and others leave free, those together that are to stay equal."""
    groups: dict[tuple[str, int], list[Axis]] = {}
    taken = {str(dim) for dims in fixed for dim in dims or () if not isinstance(dim, int)}
    for place, values in enumerate(zip(*(network.graph.inputs for network in networks), strict=True)):
        for axis, size in enumerate(fixed[place] or ()):
            known = [None if value.shape is None else value.shape[axis] for value in values]
            free = [dim for dim in known if _size(dim) is None]
            if not isinstance(size, int) or not free:
                continue
            own = next(filter(None, map(_symbol, free)), None)
            name = own or ("batch" if axis == 0 else f"{values[0].name}_{axis}")
            groups.setdefault((name, size), []).append((place, axis))
    found = []
    for (name, size), axes in groups.items():
        symbol = name
        while symbol in taken:
            symbol = f"{symbol}_"
        taken.add(symbol)
        found.append(_Dispute(tuple(axes), size, symbol))
    return found


def _runs_freely(
    network: Network, fixed: Sequence[Sequence[int | str | None] | None], dispute: _Dispute, samples: Samples
) -> bool:
    """Whether a network that is left free in one place runs there with another size as it does with the fixed one."""
    symbols = dict.fromkeys(dispute.axes, dispute.symbol)
    freed = [
        None if dims is None else [symbols.get((place, axis), dim) for axis, dim in enumerate(dims)]
        for place, dims in enumerate(fixed)
    ]
    try:
        feed = samples(_redeclared(network, fixed))
        free = _redeclared(network, freed)
        session = open_session(free.model)
        before = session.run(feed)
    except InputError:
        return False
    names = [str(value.name) for value in network.graph.inputs]
    for size in _other_sizes(dispute):
        given = dict(feed)
        for place, axis in dispute.axes:
            given[names[place]] = resized(given[names[place]], axis, size)
        try:
            after = session.run(given)
        except InputError:
            continue
        return not dispute.is_batch or _same_rows(before, after, dispute.size, size)
    return False


def _other_sizes(dispute: _Dispute) -> tuple[int, ...]:
    size = dispute.size
    if dispute.is_batch:
        return (2 * size, size + 1)
    return tuple(dict.fromkeys(each for each in (size + 32 if size >= 32 else 0, 2 * size, size // 2) if each))


def _same_rows(before: Mapping[str, Any], after: Mapping[str, Any], size: int, other: int) -> bool:
    """Whether a larger batch gives the samples of a smaller one what they got by themselves, and a row to each."""
    for name, own in before.items():
        found = after[name]
        if not isinstance(own, np.ndarray) or own.dtype.kind in "OSU":
            continue
        if own.ndim == 0 or len(own) != size or found.shape != (other, *own.shape[1:]):
            return False
        old, new = own.astype(np.float64), found[:size].astype(np.float64)
        scale = float(np.max(np.abs(old), initial=0.0, where=np.isfinite(old)))
        if not np.allclose(old, new, rtol=CLOSE, atol=CLOSE * max(scale, CLOSE), equal_nan=True):
            return False
    return True


def _redeclared(network: Network, wanted: Sequence[Sequence[int | str | None] | None]) -> Network:
    """The network with these sizes of its inputs; itself where it declares them so already, symbols apart."""
    changes = {
        place: dims
        for place, (value, dims) in enumerate(zip(network.graph.inputs, wanted, strict=True))
        if dims is not None
        and (value.shape is None or [_size(dim) for dim in value.shape] != [_fixed(dim) for dim in dims])
    }
    if not changes:
        return network
    model = network.model.clone()
    batch: dict[int | ir.SymbolicDim, int | str | None] = {}
    inner = False
    for place, dims in changes.items():
        value = model.graph.inputs[place]
        before = [] if value.shape is None else list(value.shape)
        freed = [axis for axis, dim in enumerate(before) if _size(dim) and _fixed(dims[axis]) is None]
        if 0 in freed:
            batch[before[0]] = dims[0]
        inner |= any(axis > 0 for axis in freed)
        value.shape = ir.Shape(list(dims))
    if batch or inner:
        _forget_sizes(model.graph, None if inner else batch)
    return Network(network.path, model, network.sha256)


def _forget_sizes(graph: ir.Graph, batch: Mapping[int | ir.SymbolicDim, int | str | None] | None) -> None:
    """Drop what is declared of tensors that depend on inputs; of outputs the batch alone (None: all sizes)."""
    for value in graph.outputs:
        if value.shape is not None and value.producer() is not None:
            dims = list(value.shape)
            kept = [None] * len(dims) if batch is None else [*(batch.get(dim, dim) for dim in dims[:1]), *dims[1:]]
            value.shape = ir.Shape(kept)
    outputs = {*graph.outputs}
    for node in graph.all_nodes():
        for value in node.outputs:
            if value not in outputs:
                value.shape = None


def _sizes_inside(graph: ir.Graph) -> Iterator[int]:
    """Sizes that stand in constants of shapes, smallest first."""
    found: set[int] = set()
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.INT64 and tensor.size <= 8:
            found |= {int(size) for size in tensor.numpy().reshape(-1) if 3 < size <= LARGEST}
    yield from sorted(found)[:MOST_SIZES]


def resized(array: Array, axis: int, size: int) -> Array:
    """The array with ``size`` positions along an axis, those that it has over and over."""
    if array.ndim <= axis or not array.shape[axis]:
        return array
    found: Array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return found


def _size(dim: int | ir.SymbolicDim | None) -> int | None:
    """A declared size; None where it is free, which some exporters write as 0 or -1."""
    return dim if isinstance(dim, int) and dim > 0 else None


def _fixed(dim: int | str | None) -> int | None:
    return dim if isinstance(dim, int) else None


def _symbol(dim: int | ir.SymbolicDim | None) -> str | None:
    symbol = dim.value if isinstance(dim, ir.SymbolicDim) else None
    return None if not symbol or symbol == "?" else str(symbol)


def declare_ranks(graph: ir.Graph, run_on: Mapping[str, Any]) -> None:
    """Declare type and rank of inputs and outputs that declare none, in place: a written model must.

    ``run_on`` are arrays that were given and got, by name.
    """
    for value in (*graph.inputs, *graph.outputs):
        array = run_on.get(str(value.name))
        if not isinstance(array, np.ndarray):
            continue
        if value.type is None:
            strings = array.dtype.kind in "OSU"
            value.type = ir.TensorType(ir.DataType.STRING if strings else ir.DataType.from_numpy(array.dtype))
        if value.shape is None:
            value.shape = ir.Shape([None] * array.ndim)
