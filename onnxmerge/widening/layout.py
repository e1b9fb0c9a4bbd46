"""Where the units of a widened group stand: the shared ones first, then those that each parent keeps.

A group of n units of which k are shared has k + M (n - k) units after M parents were merged. All positions are in the
first model's coordinates: a unit that is not shared stands there for one unit of each parent, kept apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from onnxmerge.axes.layout import Positions, TensorLayout, Typing


@dataclass(frozen=True, slots=True, eq=False)
class Budget:
    """The units of one group: ``shared`` and ``own`` are positions in the first model's order, both ascending."""

    shared: Positions
    own: Positions
    parents: int

    @property
    def width(self) -> int:
        """How many units the group has after merging."""
        return int(self.shared.size + self.parents * self.own.size)

    def sources(self) -> Positions:
        """For each unit of the widened group, its position in the first model's order, int64 [width]."""
        return np.concatenate([self.shared, *([self.own] * self.parents)])

    def owners(self) -> Positions:
        """For each unit of the widened group, the parent that keeps it, or -1 where it is shared, int64 [width]."""
        kept = np.repeat(np.arange(self.parents), self.own.size)
        return np.concatenate([np.full(self.shared.size, -1), kept])

    def places(self, parent: int) -> Positions:
        """For each unit of one parent, in the first model's order, where it stands in the widened group, int64 [n]."""
        found = np.empty(self.shared.size + self.own.size, dtype=np.int64)
        found[self.shared] = np.arange(self.shared.size)
        found[self.own] = self.shared.size + parent * self.own.size + np.arange(self.own.size)
        return found


Budgets = Mapping[str, Budget]
"""By space; a space that is absent keeps its width."""


def widened_axes(layout: TensorLayout, budgets: Budgets) -> dict[int, str]:
    """The axes of a tensor that a widened space stands on, with it."""
    block = layout.blocks[0] if layout.blocks else None
    axes = block.axes if block is not None else ()
    return {index: axis.spaces[0] for index, axis in enumerate(axes) if set(axis.spaces) & set(budgets)}


def plain_spaces(typing: Typing) -> list[str]:
    """The free spaces that stand alone on whole axes everywhere, that depend on none and on which none depends."""
    outer = {name for space in typing.spaces.values() for name in space.varies_with}
    plain = {
        name: None
        for name, space in typing.spaces.items()
        if space.free and space.size > 1 and not space.varies_with and name not in outer
    }
    for layout in (*typing.initializers.values(), *typing.activations.values()):
        for name in _not_plain(layout):
            plain.pop(name, None)
    return list(plain)


def _not_plain(layout: TensorLayout) -> Iterable[str]:
    """The spaces of a tensor that share an axis with others, or do not stand on it in plain order."""
    for index, size in enumerate(layout.shape):
        axes = [block.axes[index] for block in layout.blocks]
        names = {name for axis in axes for name in axis.spaces}
        whole = all(np.array_equal(axis.positions, np.arange(size)) for axis in axes)
        if len(names) > 1 or not whole:
            yield from names
