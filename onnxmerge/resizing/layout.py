"""Where the units of a partly merged group stand: the shared ones first, then those that each parent keeps.

A group of n units of which k are shared has k + M (n - k) units after M parents were merged. All positions are in the
first model's coordinates: a unit that is not shared stands there for one unit of each parent, kept apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.types import Positions
from onnxmerge.units.zips import Zipped


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

    def places(self, parent: int) -> Positions:
        """For each unit of one parent, in the first model's order, where it stands in the widened group, int64 [n]."""
        found = np.empty(self.shared.size + self.own.size, dtype=np.int64)
        found[self.shared] = np.arange(self.shared.size)
        found[self.own] = self.shared.size + parent * self.own.size + np.arange(self.own.size)
        return found


def apart(budgets: Mapping[str, Budget], labels: Sequence[Mapping[str, Positions]]) -> Zipped:
    """The zip that merges shared units only, of models whose units correspond by ``labels`` (one mapping each).

    A group that is not in ``budgets`` keeps its labels. Merging along it, a unit that a parent keeps reads everything
    with that parent's weights, and of the other parents' own units nothing; a shared unit (or one of a group of no
    other width, an output before all) reads shared units with the mean weights and each parent's own units with that
    parent's weights times its share. METHODS.md and PLeaS (Nasery et al., CVPR 2025, arXiv 2407.02447), section 4.3,
    have the same four cases.
    """

    def placed(parent: int, own: Mapping[str, Positions]) -> dict[str, Positions]:
        return {**own, **{name: budget.places(parent)[own[name]] for name, budget in budgets.items()}}

    widths = {name: budget.width for name, budget in budgets.items()}
    return Zipped(tuple(placed(parent, own) for parent, own in enumerate(labels)), widths)
