"""Which of a model's functions are what runs, and how large the model becomes when these are inlined.

ONNX Runtime prefers an operator of its own to a function of that name in the model, so such a function is not what the
model computes. Functions call functions: forty of them, each of which calls the one before twice, are two kilobytes
and 10**12 nodes, which is counted before it is done.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import onnx
import onnx_ir as ir

from onnxmerge.errors import InputError, ResourceError
from onnxmerge.model.runtimes.onnx_runtime import own_operators

MOST_NODES = 50_000
"""A model of more nodes, inlined, is taken if these are at most ``MOST_TIMES`` those that the file holds."""
MOST_TIMES = 4

_Function = tuple[str, str, str]


def drop_shadowed(model: ir.Model) -> None:
    """Remove the functions that ONNX Runtime never calls, because it has an operator of that domain and name."""
    for identifier in list(model.functions):
        domain, name, _ = identifier
        if ("" if domain == "ai.onnx" else domain, name) in _own_operators():
            del model.functions[identifier]


@functools.cache
def _own_operators() -> frozenset[tuple[str, str]]:
    """Domain and name of every operator of ONNX and of ONNX Runtime."""
    return own_operators() | {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas()}


def require_inlinable(model: ir.Model, label: str) -> None:
    """Raise ResourceError for a model too large when inlined, InputError where a function comes to call itself."""
    calls = {name: _calls(function.all_nodes(), model) for name, function in model.functions.items()}
    called = {name: [each for each in found if each is not None] for name, found in calls.items()}
    try:
        order = list(TopologicalSorter(called).static_order())
    except CycleError as error:
        names = " -> ".join(repr(name[1][:40]) for name in error.args[1][:4])
        raise InputError(
            f"{label}: functions call each other in a circle ({names}); export without functions"
        ) from None
    sizes: dict[_Function | None, int] = {None: 1}
    for name in order:
        sizes[name] = _size(calls[name], sizes)
    main = _calls(model.graph.all_nodes(), model)
    inlined = _size(main, sizes)
    held = main.total() + sum(found.total() for found in calls.values())
    if inlined > max(MOST_NODES, MOST_TIMES * held):
        raise ResourceError(
            f"{label}: has {held} nodes, which call functions until they are {inlined:.3g}; at most "
            f"{max(MOST_NODES, MOST_TIMES * held)} can be taken; export without functions"
        )


def _calls(nodes: Iterable[ir.Node], model: ir.Model) -> Counter[_Function | None]:
    """How often each function is called; all that are no calls stand under None."""
    found = Counter(node.op_identifier() for node in nodes)
    own: Counter[_Function | None] = Counter()
    for name, count in found.items():
        own[name if name in model.functions else None] += count
    return own


def _size(calls: Counter[_Function | None], sizes: dict[_Function | None, int]) -> int:
    return sum(count * sizes[name] for name, count in calls.items())
