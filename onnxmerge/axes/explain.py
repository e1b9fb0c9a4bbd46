"""Why each axis of a tensor is what it is: the chain of operators that joined or fixed its cells."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxmerge.axes.cells import Cells
from onnxmerge.axes.infer import infer, resolve_inference
from onnxmerge.axes.operators import OperatorTable
from onnxmerge.axes.signature import NEUTRAL
from onnxmerge.axes.structure import Event
from onnxmerge.errors import UsageError
from onnxmerge.model.network import Network
from onnxmerge.model.trace import Trace
from onnxmerge.types import Arrays
from onnxmerge.units.layout import Space, TensorLayout

_CONTAINS = ("factor", "part", "member")
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class SpaceReason:
    """One space on an axis: which operators joined it, or which chain led to what fixed it."""

    space: Space
    chain: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AxisReason:
    """One axis of a tensor: its layout in words, and its spaces with their reasons."""

    axis: int
    size: int
    layout: str
    spaces: tuple[SpaceReason, ...]


def explain(
    network: Network, trace: Trace, weights: Sequence[Arrays], tensor: str, operators: OperatorTable | None = None
) -> tuple[AxisReason, ...]:
    """Explain every axis of an initializer or activation. Raises UsageError if there is no such tensor."""
    inference = infer(network, trace, weights, operators)
    typing, names = resolve_inference(inference, trace)
    layout = typing.initializers.get(tensor) or typing.activations.get(tensor)
    if layout is None:
        known = [name for name in inference.axes if tensor.lower() in name.lower()][:_SHOWN]
        hint = f"; similar: {', '.join(known)}" if known else "; `inspect` lists the initializers"
        raise UsageError(f"--explain {tensor}: the model has no typed tensor of this name{hint}")
    paths = _Paths(inference.cells)
    reasons = []
    for axis, cell in enumerate(inference.axes[tensor]):
        leaves = _leaves_by_space(inference.cells, cell, names)
        spaces = dict.fromkeys(s for block in layout.blocks for s in block.axes[axis].spaces)
        found = tuple(
            SpaceReason(typing.spaces[s], paths.chain(leaves[s], typing.spaces[s]) if s in leaves else ())
            for s in spaces
        )
        reasons.append(AxisReason(axis, layout.shape[axis], _words(layout, axis, typing.spaces), found))
    return tuple(reasons)


def _leaves_by_space(cells: Cells, cell: int, names: Mapping[int, str]) -> dict[str, int]:
    found: dict[str, int] = {}
    stack = [] if cell == NEUTRAL else [cell]
    while stack:
        found_cell = stack.pop()
        root = cells.find(found_cell)
        if root in names:
            found.setdefault(names[root], found_cell)
            continue
        stack.extend(cells.children(root))
    return found


def _words(layout: TensorLayout, axis: int, spaces: Mapping[str, Space]) -> str:
    """``p1:4 x p2:32``, or the segments of a cut axis joined by ``|``."""
    segments = dict.fromkeys(
        " x ".join(f"{s}:{spaces[s].size}" for s in block.axes[axis].spaces) or "1" for block in layout.blocks
    )
    return " | ".join(segments)


class _Paths:
    """Breadth-first search over what was unified with what.

    What fixes a cell fixes everything it consists of, so a search goes from a leaf to equal cells and up to what
    contains it, never down.
    """

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._links: dict[int, list[tuple[int, Event]]] = {}
        self._fixes: dict[int, Event] = {}
        for event in cells.events:
            if event.other < 0:
                self._fixes.setdefault(event.cell, event)
                continue
            self._links.setdefault(event.other, []).append((event.cell, event))
            if event.reason not in _CONTAINS:
                self._links.setdefault(event.cell, []).append((event.other, event))
        self._classes: dict[int, list[int]] = {}
        for cell in cells:
            self._classes.setdefault(cells.find(cell), []).append(cell)

    def chain(self, leaf: int, space: Space) -> tuple[str, ...]:
        return self._joined(leaf) if space.free else self._to_fix(leaf)

    def _joined(self, leaf: int) -> tuple[str, ...]:
        """The operators that made the class of a free leaf one, in the order of the graph."""
        members = set(self._classes[self._cells.find(leaf)])
        found = dict.fromkeys(
            event.where for event in self._cells.events if event.where and {event.cell, event.other} & members
        )
        return tuple(found)

    def _to_fix(self, leaf: int) -> tuple[str, ...]:
        """The shortest chain of operators from a leaf to what fixed it."""
        came: dict[int, tuple[int, str] | None] = {leaf: None}
        queue = deque([leaf])
        while queue:
            cell = queue.popleft()
            if cell in self._fixes:
                fix = self._fixes[cell]
                return (*reversed(list(self._back(came, cell))), f"{fix.where}: {fix.reason}")
            for other, event in self._links.get(cell, ()):
                if other not in came:
                    came[other] = (cell, event.where)
                    queue.append(other)
        return ()

    def _back(self, came: Mapping[int, tuple[int, str] | None], cell: int) -> Iterator[str]:
        step = came[cell]
        last = ""
        while step is not None:
            cell, where = step
            if where != last:
                yield where
            last, step = where, came[cell]
