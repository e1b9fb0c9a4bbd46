"""How groups of units feed one another: the unit graph with a direction, in the order of the network, to be drawn.

A weight takes in the units of one group and gives those of another (``Typing.consumed``). Groups that are read before
they are written for the last time are streams: residual blocks read them and add to them, one after another. Of blocks
that repeat one is shown, with how often it comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from onnxmerge.units.layout import TensorLayout, Typing

INPUT, OUTPUT = "input", "output"
"""What stands for all that is fixed: what the network reads from outside, and what it gives."""

LONGEST_PERIOD = 24
"""Rows of a block that repeats, at most."""


@dataclass(frozen=True, slots=True)
class FlowGroup:
    """A group: its root space, what is nested inside it, and the initializers in which it stands.

    ``reads`` and ``writes`` are groups (or INPUT, OUTPUT) joined to it by a weight: those whose units make its own, and
    those made of its own. ``name`` is that of a weight that gives its units.
    """

    id: str
    name: str
    size: int
    inner: tuple[tuple[str, int], ...]
    stream: bool
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    initializers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A weight that leads from stream to stream, or to what is fixed, with no group of its own between."""

    name: str
    reads: str
    writes: str


Row: TypeAlias = FlowGroup | Link


@dataclass(frozen=True, slots=True)
class Repeated:
    """Rows that repeat ``times`` times: ``rows`` are those of the first time, ``every`` those of each."""

    rows: tuple[Row, ...]
    every: tuple[tuple[Row, ...], ...]

    @property
    def times(self) -> int:
        return len(self.every)


@dataclass(frozen=True, slots=True)
class Flow:
    """The groups of a network. ``streams`` and ``rows`` (all other groups, and links) are in the network's order."""

    streams: tuple[FlowGroup, ...]
    rows: tuple[Row, ...]

    @property
    def groups(self) -> tuple[FlowGroup, ...]:
        """Every group: streams first."""
        return (*self.streams, *(row for row in self.rows if isinstance(row, FlowGroup)))

    def blocks(self, *, folded: bool = True) -> tuple[Repeated, ...]:
        """The rows, those that repeat together where they are ``folded``."""
        if not folded:
            return tuple(Repeated((row,), ((row,),)) for row in self.rows)
        signatures = [_signature(row, self) for row in self.rows]
        found, place = [], 0
        while place < len(self.rows):
            period, times = _repeated(signatures, place)
            every = tuple(self.rows[start : start + period] for start in range(place, place + period * times, period))
            found.append(Repeated(every[0], every))
            place += period * times
        return tuple(found)


def flow_of(graph: ir.Graph, typing: Typing) -> Flow:
    """The flow of a typed graph."""
    roots = _roots(typing)
    first = _first_readers(graph)
    gives: dict[str, dict[str, None]] = {}
    takes: dict[str, dict[str, None]] = {}
    places: dict[str, dict[str, None]] = {root: {} for root in roots.values()}
    edges: list[tuple[int, str, str, str]] = []
    for name in sorted(typing.initializers, key=lambda name: first.get(name, len(first))):
        layout = typing.initializers[name]
        given, taken = set[str](), set[str]()
        for axis, space in _standing(layout):
            consumed = (name, axis, space) in typing.consumed
            if space in roots:
                (taken if consumed else given).add(roots[space])
                places[roots[space]][name] = None
            elif consumed:
                taken.add(INPUT)
        wide = sum(size > 1 for size in layout.shape) > 1
        if name in typing.statistics or not wide or not (given or taken - {INPUT}):
            continue
        for root in given:
            gives.setdefault(root, {})[name] = None
        for root in taken - {INPUT}:
            takes.setdefault(root, {})[name] = None
        fed_by = [(one, other) for one in sorted(taken) for other in (sorted(given) or [OUTPUT])]
        edges += [(first.get(name, 0), name, one, other) for one, other in fed_by if one != other]
    fed = {other for _, _, _, other in edges}
    edges += [
        (first.get(names[0], 0), names[0], INPUT, root)
        for root, own in gives.items()
        if root not in fed and (names := list(own))
    ]
    streams = {root for root in places if _is_stream(root, gives, takes, first)}
    order = sorted(places, key=lambda root: min((first.get(name, len(first)) for name in places[root]), default=0))
    groups = {
        root: FlowGroup(
            root,
            _name([*gives.get(root, ()), *places[root]]),
            typing.spaces[root].size,
            tuple((name, typing.spaces[name].size) for name, own in roots.items() if own == root != name),
            root in streams,
            tuple(dict.fromkeys(one for _, _, one, other in edges if other == root)),
            tuple(dict.fromkeys(other for _, _, one, other in edges if one == root)),
            tuple(places[root]),
        )
        for root in order
    }
    ends = streams | {INPUT, OUTPUT}
    rows: list[tuple[int, Row]] = [
        (min(first.get(name, 0) for name in groups[root].initializers), groups[root])
        for root in order
        if root not in streams and groups[root].initializers
    ]
    rows += [(place, Link(name, one, other)) for place, name, one, other in edges if one in ends and other in ends]
    rows.sort(key=lambda each: each[0])
    return Flow(tuple(groups[root] for root in order if root in streams), tuple(row for _, row in rows))


def _standing(layout: TensorLayout) -> Iterator[tuple[int, str]]:
    """Each axis of a tensor with each space that stands on it."""
    for block in layout.blocks:
        for axis, part in enumerate(block.axes):
            for space in part.spaces:
                yield axis, space


def _roots(typing: Typing) -> dict[str, str]:
    """The outermost free space around each free space."""
    spaces = typing.spaces
    found: dict[str, str] = {}
    for name, space in spaces.items():
        outer = [each for each in space.varies_with if spaces[each].free]
        if space.free:
            found[name] = min(outer, key=lambda each: len(spaces[each].varies_with), default=name)
    return found


def _first_readers(graph: ir.Graph) -> dict[str, int]:
    """The place of the first node that reads each initializer, inside bodies of nodes too."""
    found: dict[str, int] = {}
    for place, node in enumerate(graph.all_nodes()):
        for value in node.inputs:
            if value is not None and value.is_initializer():
                found.setdefault(str(value.name), place)
    return found


def _is_stream(
    root: str,
    gives: Mapping[str, Mapping[str, None]],
    takes: Mapping[str, Mapping[str, None]],
    first: Mapping[str, int],
) -> bool:
    written = [first.get(name, 0) for name in gives.get(root, ())]
    read = [first.get(name, 0) for name in takes.get(root, ())]
    return bool(written and read) and min(read) < max(written)


def _name(names: Sequence[str]) -> str:
    """A name that says where a group stands: exporters number weights that they made themselves."""
    told = [name for name in names if not re.fullmatch(r"(onnx::)?[A-Za-z]*_?\d+|.*[Cc]onst.*", name)]
    name = next(iter(told or names), "")
    return re.sub(r"[./_](weight|bias|kernel|gamma|beta)$", "", name)


def _general(text: str) -> str:
    return re.sub(r"\d+", "#", text)


def _signature(row: Row, flow: Flow) -> object:
    """What repeated rows have in common: all but the numbers in names, and the very streams."""
    streams = {group.id for group in flow.streams} | {INPUT, OUTPUT}

    def end(name: str) -> str:
        return name if name in streams else ""

    if isinstance(row, Link):
        return _general(row.name), end(row.reads), end(row.writes)
    inner = tuple(size for _, size in row.inner)
    reads, writes = (tuple(sorted(map(end, each))) for each in (row.reads, row.writes))
    return _general(row.name), row.size, inner, reads, writes, len(row.initializers)


def _repeated(signatures: Sequence[object], place: int) -> tuple[int, int]:
    """The period and number of repetitions that cover most rows from ``place`` on, the shortest period among equals."""
    best = (1, 1)
    for period in range(1, min(LONGEST_PERIOD, (len(signatures) - place) // 2) + 1):
        block = signatures[place : place + period]
        times = 1
        while signatures[place + period * times : place + period * (times + 1)] == block:
            times += 1
        if times > 1 and period * times > best[0] * best[1]:
            best = (period, times)
    return best
