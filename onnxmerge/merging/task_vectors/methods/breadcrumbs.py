"""Model breadcrumbs: neither the smallest changes nor the outliers.

Davari and Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks", ECCV 2024, arXiv
2312.06795, section 3. Of each tensor of a task vector the ``outliers`` largest entries by magnitude are dropped, and of
the rest the largest are kept, a share ``density`` of all; then W = W_0 + alpha sum_i t_i'. The paper drops 0.7 % as
outliers and keeps 14.3 %.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxmerge.contracts import described
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.options import DENSITY, SCALE, Scale, Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Breadcrumbs(Scaled):
    """``scale`` is alpha."""

    scale: Scale = field(default=0.3, metadata=SCALE)
    density: float = field(default=0.143, metadata=DENSITY)
    outliers: float = field(
        default=0.007, metadata=described("Share of the largest changes that is dropped", least=0.0, most=1.0)
    )


def breadcrumbs(vectors: TaskVectors, options: Breadcrumbs) -> Floats:
    """The (weighted) sum of the masked task vectors of one tensor."""
    total = np.zeros(vectors.shape)
    for weight, vector in vectors:
        order = np.argsort(-np.abs(vector), axis=None, kind="stable")
        first = int(options.outliers * order.size)
        kept = order[first : first + max(int(options.density * order.size), 1)]
        total.reshape(-1)[kept] += weight * vector.reshape(-1)[kept]
    return total


METHOD = TaskVectorMethod(
    name="breadcrumbs",
    summary="neither the smallest changes nor outliers (model breadcrumbs)",
    source="Davari and Belilovsky, arXiv 2312.06795",
    rule=breadcrumbs,
    options=Breadcrumbs,
)
