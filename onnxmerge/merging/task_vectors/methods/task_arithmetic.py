"""Task arithmetic: add up what the models learnt (Ilharco et al., ICLR 2023, arXiv 2212.04089, section 2).

With tau_m = W_m - W_0 the task vector of model m, the merged model is

    W = W_0 + lambda sum_m tau_m,

with lambda from 0.3 to 0.5 in the paper for many pairs of tasks (section 4.2 and appendix).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.options import SCALE, Scale, Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskArithmetic(Scaled):
    """``scale`` is lambda."""

    scale: Scale = field(default=0.4, metadata=SCALE)


def task_arithmetic(vectors: TaskVectors, _options: TaskArithmetic | None = None) -> Floats:
    """The (weighted) sum of the task vectors of one tensor."""
    return vectors.by_entries(_sum)


def _sum(vectors: TaskVectors) -> Floats:
    total = np.zeros(vectors.shape)
    for weight, vector in vectors:
        total += weight * vector
    return total


METHOD = TaskVectorMethod(
    name="task-arithmetic",
    summary="add up what each model learnt (task arithmetic)",
    source="Ilharco et al., arXiv 2212.04089",
    rule=task_arithmetic,
    options=TaskArithmetic,
)
