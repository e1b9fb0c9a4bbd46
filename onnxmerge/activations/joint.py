"""How much of what several models' units do fits into fewer directions: principal components of all units together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from onnxmerge.activations.statistics import Gram
from onnxmerge.types import Floats


@dataclass(frozen=True, slots=True, eq=False)
class JointVariance:
    """``kept`` [units of all models]: the share of their variance in the first so many principal directions.

    Each unit is scaled to a variance of 1, so that no unit and no model counts for more than another.
    """

    kept: Floats

    def share(self, directions: int) -> float:
        """What so many directions hold, from 0 to 1."""
        return float(self.kept[min(directions, len(self.kept)) - 1]) if directions > 0 else 0.0

    def needed(self, share: float) -> int:
        """How many directions hold this share."""
        return min(int(np.searchsorted(self.kept, share)) + 1, len(self.kept))


def joint_variance(gram: Gram, models: int) -> JointVariance | None:
    """The principal components of the units of all models of a space; None where no unit ever changes.

    The Gram must have the products of every two models, and inside each.
    """
    values = scipy.linalg.eigvalsh(gram.correlations(models), check_finite=False)[::-1].clip(min=0.0)
    total = float(values.sum())
    return JointVariance(np.minimum(np.cumsum(values) / total, 1.0)) if total > 0 else None
