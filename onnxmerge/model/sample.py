"""Find inputs that a model runs on, from nothing but its declared inputs.

Declared sizes are kept. Where an axis is dynamic, a short search goes through plausible sizes until ONNX Runtime runs
the model: axes of one name are equal, images are multiples of 32, signals and sequences grow.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from onnxmerge.errors import InputError, ResourceError, UsageError
from onnxmerge.memory import require_room
from onnxmerge.model.demand import demand
from onnxmerge.model.lookups import handed_on, initializer_behind, tables_of
from onnxmerge.model.network import Network
from onnxmerge.model.session import open_session
from onnxmerge.types import Array

T = TypeVar("T")

SampleInput = tuple[int, ...] | Array
"""What is known of one input of the traced sample: its shape, or its value."""

IMAGES = (64, 32, 96, 128, 224, 256, 320, 384, 448, 512, 640, 48, 299, 28)
LENGTHS = (16, 8, 32, 64, 96, 128, 256, 480, 512, 576, 1024, 1536, 2048, 4096, 8192, 16000, 32000, 64000, 160000)
SIGNALS = (512, 576, 1024, 256, 1536, 4096, 8192, 16000, 32000, 64000, 160000, 128, 64, 32, 16)
"""Sizes for the last axis of a float input of at most two axes: long enough for a few frames."""

APART = (1, 16, 64, 256, 1024)
"""Sizes tried when the dynamic axes of a model must differ from each other."""
MOST_ATTEMPTS = 300
_PIECE = 1 << 20

SAMPLE_RATES = frozenset({"sr", "sample_rate", "sampling_rate", "samplerate"})


@dataclass(frozen=True, slots=True)
class Declared:
    """One graph input. ``dims`` holds a size where the model fixes one and the name of the axis where it does not."""

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int | str, ...]
    limit: int | None
    """For integers: they must be below this, the size of the smallest table that they index (None: no table found)."""


def synthesize(
    network: Network,
    *,
    batch: int = 2,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Array]:
    """Inputs that the network runs on: floats standard normal, masks of ones, integers within the tables they index.

    Args:
        network: The network.
        batch: Size of a dynamic batch axis (1 is tried too, for models that are fixed to it further inside).
        seed: Of the random numbers.
        shapes: Shapes of inputs that are known, by name; they bind the named axes of the other inputs as well.

    Raises:
        InputError: nothing runs; the message names the failing node and the option that helps.
        ResourceError: a run takes more memory or time than it may; no others are tried then.
        UsageError: ``shapes`` names an input that does not exist or contradicts what it declares.

    """
    wanted = demand(network)
    session = open_session(network.model)

    def attempt(feeds: dict[str, Array]) -> None:
        wanted.require_room(feeds)
        session.run(feeds)

    return find_sample(network, attempt, batch=batch, seed=seed, shapes=shapes)[0]


def find_sample(
    network: Network,
    attempt: Callable[[dict[str, Array]], T],
    *,
    batch: int = 2,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[dict[str, Array], T]:
    """The first inputs on which ``attempt`` raises no InputError, and what it gave. See ``synthesize``."""
    first: tuple[str, InputError] | None = None
    tried = 0
    for feeds in plausible_samples(network, batch=batch, seed=seed, shapes=shapes):
        tried += 1
        try:
            return feeds, attempt(feeds)
        except ResourceError:
            raise
        except InputError as failed:
            if first is None:
                first = ", ".join(f"{name}:{list(array.shape)}" for name, array in feeds.items()), failed
    described, reason = first if first is not None else ("nothing", InputError("no sizes to try"))
    raise InputError(
        f"{network.label}: found no input that runs ({tried} tried); with {described} it says: {reason}; "
        "give one with --input NAME:SHAPE or --input NAME:file.npy"
    ) from reason


def plausible_samples(
    network: Network, *, batch: int = 2, seed: int = 0, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Iterator[dict[str, Array]]:
    """Inputs that might run, the most plausible first; at most MOST_ATTEMPTS. See ``synthesize``."""
    declared = [_declare(value, network.label) for value in network.graph.inputs]
    for sizes in _candidates(declared, batch, _bound(declared, shapes or {}, network.label)):
        yield _fill(declared, sizes, shapes or {}, seed, network.label)


def _declare(value: ir.Value, label: str) -> Declared:
    name = value.name or ""
    if not isinstance(value.type, ir.TensorType) or value.dtype is None:
        raise InputError(f"{label}: input {name!r} is of type {value.type}, not a tensor; only tensors can be fed")
    if value.dtype == ir.DataType.UNDEFINED:
        raise InputError(f"{label}: input {name!r} declares no type of its elements; export the model with one")
    if value.shape is None:
        raise InputError(f"{label}: input {name!r} declares no rank; give its shape with --input '{name}:SHAPE'")
    dims: list[int | str] = []
    for axis, dim in enumerate(value.shape):
        symbol = dim.value if isinstance(dim, ir.SymbolicDim) else None
        if isinstance(dim, int) and dim > 0:
            dims.append(dim)
        else:
            # Exporters write "?" or nothing for an axis that they know nothing of: such axes need not be equal.
            dims.append(str(symbol) if symbol and symbol != "?" else f"{name}/{axis}")
    return Declared(name, value.dtype.numpy(), tuple(dims), _limit(value))


def _limit(value: ir.Value) -> int | None:
    """The size of the smallest constant table that is indexed with a value, or None."""
    limits = [table.rows for table in tables_of(value)]
    for current in handed_on(value):
        for node, slot in current.uses():
            if node.op_type == "OneHot" and slot == 0:
                depth = initializer_behind(node.inputs[1])
                if depth is not None and depth.const_value is not None:
                    limits.append(int(depth.const_value.numpy().reshape(-1)[0]))
    return min(limits, default=None)


def _bound(declared: list[Declared], shapes: Mapping[str, tuple[int, ...]], label: str) -> dict[str, int]:
    """Sizes of named axes that follow from the given shapes."""
    by_name = {item.name: item for item in declared}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in by_name:
            raise UsageError(f"{label}: has no input {name!r}; it takes {', '.join(map(repr, by_name))}")
        dims = by_name[name].dims
        if len(dims) != len(shape) or any(
            isinstance(dim, int) and dim != size for dim, size in zip(dims, shape, strict=False)
        ):
            raise UsageError(f"{label}: input {name!r} takes {list(dims)}, not {list(shape)}")
        sizes |= {dim: size for dim, size in zip(dims, shape, strict=True) if isinstance(dim, str)}
    return sizes


def _candidates(declared: list[Declared], batch: int, bound: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Sizes of all dynamic axes, the most plausible first; at most MOST_ATTEMPTS, no two alike."""
    axes = list(dict.fromkeys(dim for item in declared for dim in item.dims if isinstance(dim, str)))
    sums = {axis: terms for axis in axes if (terms := _terms(axis, axes))}
    free = [axis for axis in axes if axis not in bound and axis not in sums]
    batches = [axis for axis in free if _is_batch(axis, declared)]
    ladders = {axis: _ladder(axis, declared) for axis in free}
    others = [axis for axis in free if axis not in batches]
    together = (
        {axis: ladders[axis][min(step, len(ladders[axis]) - 1)] for axis in others}
        for step in range(max(map(len, (IMAGES, LENGTHS, SIGNALS))))
    )
    apart = (
        dict(zip(others, sizes, strict=True))
        for sizes in itertools.product((batch, *APART), repeat=len(others))
        if len(others) <= 3
    )
    seen: set[tuple[int, ...]] = set()
    for sizes in itertools.chain(together, apart):
        for size in dict.fromkeys((batch, 1)):
            candidate = {**bound, **sizes, **dict.fromkeys(batches, size)}
            for axis, terms in sums.items():
                candidate.setdefault(axis, sum(candidate.get(term, 0) if term in axes else int(term) for term in terms))
            key = tuple(candidate[axis] for axis in axes)
            if key not in seen and len(seen) < MOST_ATTEMPTS:
                seen.add(key)
                yield candidate


def _terms(axis: str, axes: list[str]) -> tuple[str, ...]:
    """The terms of an axis that is declared as a sum of others ("past_length + 1"), or of what its name says."""
    terms = tuple(term.strip() for term in axis.split("+"))
    if len(terms) > 1 and all(term.isdecimal() or term in axes for term in terms):
        return terms
    if axis.startswith("total"):
        past = [other for other in axes if other.startswith("past")]
        new = [other for other in axes if other == axis.replace("total_", "", 1)]
        if past and new:
            return (past[0], new[0])
    return ()


def _is_batch(axis: str, declared: list[Declared]) -> bool:
    """A first axis, one called so, or the second of a recurrent state [layers, batch, width]."""
    if re.search(r"batch|^[nN]$", axis):
        return True
    single = len(declared) == 1
    for item in declared:
        if item.dims[:1] == (axis,) and (len(item.dims) > 1 or not single):
            return True
        if len(item.dims) == 3 and isinstance(item.dims[0], int) and item.dims[1] == axis and not single:
            return isinstance(item.dims[2], int)
    return False


def _ladder(axis: str, declared: list[Declared]) -> tuple[int, ...]:
    """The sizes to try on an axis, in order, by what the inputs that have it look like."""
    found = [item for item in declared if axis in item.dims]
    if any(len(item.dims) >= 4 and axis in item.dims[1:] and item.dtype.kind == "f" for item in found):
        return IMAGES
    if len(found) == 1 and found[0].dtype.kind == "f" and len(found[0].dims) <= 2 and found[0].dims[-1] == axis:
        return SIGNALS
    return LENGTHS


def _fill(
    declared: list[Declared], sizes: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], seed: int, label: str
) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    length = max((sizes[dim] for item in declared for dim in item.dims[1:] if isinstance(dim, str)), default=1)
    feeds = {}
    for item in declared:
        shape = shapes.get(item.name) or tuple(sizes[dim] if isinstance(dim, str) else dim for dim in item.dims)
        require_room(
            math.prod(shape) * item.dtype.itemsize, f"{label}: input {item.name[:100]!r} of shape {list(shape)}"
        )
        feeds[item.name] = _values(item, shape, length, rng)
    return feeds


def _values(item: Declared, shape: tuple[int, ...], length: int, rng: np.random.Generator) -> Array:
    name = item.name.lower()
    if item.dtype.kind in "OSU":
        return np.full(shape, "", dtype=object)
    if item.dtype.kind == "b" or "mask" in name:
        return np.ones(shape, item.dtype)
    if not shape and name.endswith(("min", "max")):  # bounds, which must leave something between them
        return np.full(shape, 1000 if name.endswith("max") else 0, item.dtype)
    if item.dtype.kind not in "iu":  # floats, those of ml_dtypes included (their kind is V)
        return _drawn(rng.standard_normal, shape, item.dtype)
    if item.limit is None and name.rpartition(":")[2] in SAMPLE_RATES:
        return np.full(shape, 16000, item.dtype)
    if item.limit is None and "len" in name:
        return np.full(shape, length, item.dtype)
    guess = 256 if item.dtype == np.uint8 else 2
    limit = max(item.limit, 1) if item.limit is not None else guess
    high = min(limit, int(np.iinfo(item.dtype).max) + 1)
    return _drawn(lambda count: rng.integers(0, high, count), shape, item.dtype)


def _drawn(draw: Callable[[int], Array], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Random numbers in the type that is wanted, drawn a piece at a time: generators give 64 bits for each."""
    found = np.empty(math.prod(shape), dtype)
    for start in range(0, found.size, _PIECE):
        piece = found[start : start + _PIECE]
        piece[...] = draw(piece.size)
    return found.reshape(shape)
