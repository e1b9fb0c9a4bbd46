"""What least squares adds up for one layer, batch by batch: inputs, targets, and the deviation that is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.activations.patches import Picks, draw, pick, values_at
from onnxmerge.errors import InputError
from onnxmerge.merging.closed_form.consensus import Consensus
from onnxmerge.merging.closed_form.ridge import Sums
from onnxmerge.merging.closed_form.targets import LayerTarget
from onnxmerge.types import Arrays, Floats
from onnxmerge.units.alignment import UnitAlignment

HELD_OUT = 5
"""One row in so many is held out: the last of each batch, or every so many batches where batches are tiny."""


@dataclass(frozen=True, slots=True, eq=False)
class LayerStatistics:
    """What was measured for a layer: sums over rows to fit and held out, and the parents' moments.

    The sums' targets are the parents' mean and, where there is one, the merged shortcut. ``deviation`` [groups, u] is
    the mean over parents of each unit's standard deviation, ``size`` that of the root mean square about zero.
    """

    fit: Sums
    held: Sums
    deviation: Floats
    size: Floats


class LayerAccumulator:
    """What is added up for one layer, batch by batch.

    Its target is the mean over the units that meet, or what the parents' answers ``agreed`` on; then the deviation
    that is wanted is the target's own. ``chances`` say how often positions count, where a batch has their shape
    (None: all alike).
    """

    def __init__(
        self, target: LayerTarget, units: UnitAlignment, agreed: Consensus | None, chances: Floats | None = None
    ) -> None:
        self.target, self.units, self.agreed, self.chances = target, units, agreed, chances
        self.fit: Sums | None = None
        self.held: Sums | None = None
        self.rows = 0
        self.first = self.second = np.zeros(())

    def add(
        self, index: int, given: Arrays, targets: Sequence[NDArray[Any]], count: int, rng: np.random.Generator
    ) -> None:
        """Add a batch: the merged network's tensors, and each parent's target."""
        target = self.target
        channel, groups = target.axis, target.form.groups
        picks = self._picks(targets[0].shape, count, rng)
        if not picks[0].size:
            return
        parents = [values_at(target, channel, picks) for target in targets]
        aim = self.units.mean(parents) if self.agreed is None else self.agreed.at_length(parents)
        wide = np.asarray(parents if self.agreed is None else [aim], np.float64)
        self.rows += wide.shape[1]
        self.first = self.first + wide.sum(axis=1)
        self.second = self.second + np.square(wide).sum(axis=1)
        aims = [aim]
        if target.shortcut is not None:
            aims.append(values_at(given[target.shortcut], channel, picks))
        x = target.form.rows(given[target.source], picks)
        y = np.stack([aim.reshape(len(aim), groups, -1).transpose(1, 0, 2) for aim in aims])
        if self.fit is None or self.held is None:
            shifts = x.mean(axis=1, dtype=np.float64), y.mean(axis=2, dtype=np.float64)
            self.fit, self.held = Sums(*shifts), Sums(*shifts)
        for sums, part in ((self.fit, slice(None, cut := _cut(x.shape[1], index))), (self.held, slice(cut, None))):
            sums.add(x[:, part], y[:, :, part])

    def _picks(self, shape: tuple[int, ...], count: int, rng: np.random.Generator) -> Picks:
        """The positions of a batch that count."""
        axis = self.target.axis % len(shape)
        if self.chances is None or shape[1:axis] + shape[axis + 1 :] != self.chances.shape:
            return pick(shape, axis, count, rng)
        return draw(shape, axis, count, self.chances, rng)

    def statistics(self) -> LayerStatistics:
        """What the layer is solved from. Raises InputError where there is no data, or activations are not finite."""
        if self.fit is None or self.held is None:
            raise no_data()
        if not self.fit.count:
            self.fit, self.held = self.held, self.fit
        if not all(np.isfinite(array).all() for sums in (self.fit, self.held) for array in (sums.xx, sums.xy, sums.yy)):
            raise not_finite(self.target)
        mean, size = self.first / self.rows, self.second / self.rows
        shape = self.fit.shift_y.shape[1:]
        deviation, root = (self._wanted(np.sqrt(each)) for each in (np.maximum(size - mean**2, 0.0), size))
        return LayerStatistics(self.fit, self.held, deviation.reshape(shape), root.reshape(shape))

    def _wanted(self, parents: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean over the units that meet, of a number for each unit of each parent."""
        return self.units.mean(list(parents)) if self.agreed is None else parents[0]


def _cut(rows: int, index: int) -> int:
    """Where the held-out rows of a batch begin."""
    if rows >= HELD_OUT:
        return rows - rows // HELD_OUT
    return 0 if index % HELD_OUT == HELD_OUT - 1 else rows


def not_finite(target: LayerTarget) -> InputError:
    """What to raise where a layer's activations are not numbers."""
    return InputError(
        f"{target.layer.node}: activations on the calibration data are not finite; check its scale and values"
    )


def no_data() -> InputError:
    """What to raise where there is nothing to measure."""
    return InputError("no calibration data reached the network; expected at least one batch")
