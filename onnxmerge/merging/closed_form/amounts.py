"""How much data a layer is solved from: enough for the numbers that it reads, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxmerge.activations.enough import LEAST
from onnxmerge.calibration.subset import Spread
from onnxmerge.merging.closed_form.draft import Draft
from onnxmerge.merging.closed_form.goals import Goal
from onnxmerge.units.layout import Typing

ROWS = 65_536
"""Positions that a layer is solved from at most, evenly over all batches; fewer where the data has fewer."""

ROWS_PER_FEATURE = 32
"""As many positions for each number that a unit is computed from are plenty."""

SAMPLES_PER_FEATURE = 8
"""Where a sample is one position (behind pooling), this many samples for each such number are taken."""

FEATURES = 8192
"""A layer that reads more numbers for each unit stays the average: its Gram matrix alone would take half a gigabyte."""


def too_wide(goal: Goal) -> bool:
    """Whether a layer reads more numbers for each unit than can be solved for."""
    return goal.features > FEATURES


def rows(goal: Goal, batches: int) -> int:
    """How many positions of each of so many batches a layer is solved from."""
    return -(-min(ROWS, ROWS_PER_FEATURE * max(goal.features, LEAST)) // batches)


def sampled(draft: Draft, goals: Sequence[Goal]) -> Draft:
    """The draft with as much of its data, from all over it, as solving the layers needs (see ``Draft.traced``)."""
    traced = draft.traced
    if traced is None:
        return draft
    most = max([LEAST, *(_samples(goal, draft.typing, traced) for goal in goals if not too_wide(goal))])
    return replace(draft, source=Spread(draft.source, most))


def _samples(goal: Goal, typing: Typing, traced: int) -> int:
    shape = typing.activations[goal.target].shape
    positions = max(np.prod(shape) / shape[goal.axis] / traced, 1)
    return int(np.ceil(SAMPLES_PER_FEATURE * goal.features / positions))
