"""Typings written down by hand, for tests that must not depend on inference.

    typing = typed([Space("h", 6)], initializers={"w1": ["h", "4"], "b1": ["h"]}, activations={"z": ["2", "h"]})

An axis is a string of spaces (outermost first), or a number: a fixed axis of that length with a space of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxmerge.units.layout import AxisBlock, Block, Space, TensorLayout, Typing

Axes = Mapping[str, Sequence[str]]


def typed(
    spaces: Sequence[Space], initializers: Axes, activations: Axes | None = None, statistics: Sequence[str] = ()
) -> Typing:
    """A typing in which every tensor is one block."""
    known = {space.id: space for space in spaces}
    weights = {name: _layout(name, axes, known) for name, axes in initializers.items()}
    signals = {name: _layout(name, axes, known) for name, axes in (activations or {}).items()}
    return Typing(known, weights, signals, frozenset(statistics))


def _layout(name: str, axes: Sequence[str], known: dict[str, Space]) -> TensorLayout:
    blocks = []
    for index, axis in enumerate(axes):
        names = axis.split()
        if axis.isdigit():
            names = [f"{name}/{index}"]
            known[names[0]] = Space(names[0], int(axis), (), "fixed in the test")
        sizes = [known[each].size for each in names]
        blocks.append(AxisBlock(tuple(names), np.arange(np.prod(sizes, dtype=int)).reshape(sizes)))
    return TensorLayout(name, tuple(block.positions.size for block in blocks), (Block(tuple(blocks)),))
