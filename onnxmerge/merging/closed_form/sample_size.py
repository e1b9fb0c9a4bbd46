"""How much data a layer is solved from: enough for the numbers that it reads, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxmerge.activations.sample_size import LEAST
from onnxmerge.calibration.subset import Spread
from onnxmerge.merging.closed_form.context import MergeContext
from onnxmerge.merging.closed_form.targets import LayerTarget
from onnxmerge.units.layout import Typing

ROWS = 65_536
"""Positions that a layer is solved from at most, evenly over all batches; fewer where the data has fewer."""

ROWS_PER_FEATURE = 32
"""As many positions for each number that a unit is computed from are plenty."""

SAMPLES_PER_FEATURE = 8
"""Where a sample is one position (behind pooling), this many samples for each such number are taken."""

FEATURES = 8192
"""A layer that reads more numbers for each unit stays the average: its Gram matrix alone would take half a gigabyte."""


def too_wide(target: LayerTarget) -> bool:
    """Whether a layer reads more numbers for each unit than can be solved for."""
    return target.features > FEATURES


def rows(target: LayerTarget, batches: int) -> int:
    """How many positions of each of so many batches a layer is solved from."""
    return -(-min(ROWS, ROWS_PER_FEATURE * max(target.features, LEAST)) // batches)


def sampled(context: MergeContext, targets: Sequence[LayerTarget]) -> MergeContext:
    """The context with as much of its data, from all over it, as solving its layers needs (see ``whole``)."""
    traced = context.traced
    if traced is None or context.whole:
        return context
    most = max([LEAST, *(samples(target, context.typing, traced) for target in targets if not too_wide(target))])
    own = tuple(Spread(source, most) for source in context.own)
    return replace(context, source=Spread(context.source, most), own=own)


def samples(target: LayerTarget, typing: Typing, traced: int) -> int:
    """How many samples a layer is solved from; ``traced`` are those that the typing's shapes are of."""
    shape = typing.activations[target.tensor].shape
    positions = max(np.prod(shape) / shape[target.axis] / traced, 1)
    return int(np.ceil(SAMPLES_PER_FEATURE * target.features / positions))
