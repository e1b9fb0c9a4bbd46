"""Iso-C: every direction of the summed task matrix counts alike.

Marczak et al., "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces", ICML 2025,
arXiv 2502.04959, section 4.1:

    sum_i t_i = U S V^T,      t = mean(S) U V^T.

W = W_0 + alpha t. It collapses on low-rank changes (LoRA), whose empty directions it makes as strong as the others.
"""

from __future__ import annotations

import numpy as np

from onnxmerge.merging.task_vectors.directions import leading
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.methods.task_arithmetic import task_arithmetic
from onnxmerge.merging.task_vectors.options import Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


def iso_c(vectors: TaskVectors, _options: Scaled | None = None) -> Floats:
    """The sum of the task vectors of one matrix [out, in] with equal singular values."""
    u, s, v = leading(task_arithmetic(vectors), min(vectors.shape))
    return np.asarray(s.sum() / min(vectors.shape) * (u @ v.T))


METHOD = TaskVectorMethod(
    name="iso-c",
    summary="the sum of what was learnt, all directions alike (Iso-C)",
    source="Marczak et al., arXiv 2502.04959",
    rule=iso_c,
    options=Scaled,
    matrices=True,
)
