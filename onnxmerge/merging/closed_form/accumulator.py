"""What least squares adds up for one layer, batch by batch: inputs and targets, those to fit and those held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.activations.patches import values_at
from onnxmerge.merging.closed_form.aims import Aim
from onnxmerge.merging.closed_form.failures import no_data, not_finite
from onnxmerge.merging.closed_form.ridge import RowBlocks, Sums
from onnxmerge.merging.closed_form.targets import LayerTarget
from onnxmerge.types import Arrays, Floats

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
    """What is added up for one layer, batch by batch, with what it aims at."""

    def __init__(self, target: LayerTarget, aim: Aim) -> None:
        self.target, self.aim = target, aim
        self.fit: RowBlocks | None = None
        self.held: RowBlocks | None = None

    def add(self, batch: int, given: Arrays) -> None:
        """Add a batch by its number: the merged network's tensors."""
        target, picks, aim = self.target, self.aim.picks(batch), self.aim.rows[batch]
        if not len(aim):
            return
        aims = [aim]
        if target.shortcut is not None:
            aims.append(values_at(given[target.shortcut], target.axis, picks))
        x = target.form.rows(given[target.source], picks)
        y = np.stack([aim.reshape(len(aim), target.form.groups, -1).transpose(1, 0, 2) for aim in aims])
        if self.fit is None or self.held is None:
            shifts = x.mean(axis=1, dtype=np.float64), y.mean(axis=2, dtype=np.float64)
            self.fit, self.held = RowBlocks(Sums(*shifts)), RowBlocks(Sums(*shifts))
        for sums, part in ((self.fit, slice(None, cut := _cut(x.shape[1], batch))), (self.held, slice(cut, None))):
            sums.add(x[:, part], y[:, :, part])

    def statistics(self) -> LayerStatistics:
        """What the layer is solved from. Raises InputError where there is no data, or activations are not finite."""
        if self.fit is None or self.held is None:
            raise no_data()
        fit, held = self.fit.sums(), self.held.sums()
        if not fit.count:
            fit, held = held, fit
        if not all(np.isfinite(array).all() for sums in (fit, held) for array in (sums.xx, sums.xy, sums.yy)):
            raise not_finite(self.target)
        shape = fit.shift_y.shape[1:]
        return LayerStatistics(fit, held, self.aim.deviation.reshape(shape), self.aim.size.reshape(shape))


def _cut(rows: int, index: int) -> int:
    """Where the held-out rows of a batch begin."""
    if rows >= HELD_OUT:
        return rows - rows // HELD_OUT
    return 0 if index % HELD_OUT == HELD_OUT - 1 else rows
