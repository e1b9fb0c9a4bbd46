"""TSV-M: the first singular directions of each task, made orthogonal to those of the others.

Gargiulo et al., "Task Singular Vectors: Reducing Task Interference in Model Merging", CVPR 2025, arXiv 2412.00081,
section 4.2, algorithm 1. Of N task matrices t_i = U_i S_i V_i^T the first floor(r / N) singular triples each are put
side by side, r = min(out, in):

    U = [U_1 ... U_N],  S = diag(S_1 ... S_N),  V = [V_1 ... V_N];
    U' = P Q^T where U = P D Q^T, V' likewise             (the nearest matrix with orthonormal columns: whitening)
    t = U' S V'^T,

W = W_0 + lambda t with lambda = 1. Where there are more tasks than r each keeps one.
"""

from __future__ import annotations

import numpy as np

from onnxmerge.merging.task_vectors.directions import leading, orthonormal
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.options import Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


def tsv_m(vectors: TaskVectors, _options: Scaled | None = None) -> Floats:
    """The task vectors of one matrix [out, in], put together."""
    kept = max(min(vectors.shape) // len(vectors), 1)
    u, s, v = _side_by_side(vectors, kept)
    u = orthonormal(u) * s
    return np.asarray(u @ orthonormal(v).T)


def _side_by_side(vectors: TaskVectors, count: int) -> tuple[Floats, Floats, Floats]:
    """U [out, k], S [k] and V [in, k] of the first ``count`` singular triples of each task."""
    parts = [leading(weight * vector, count) for weight, vector in vectors]
    left, sizes, right = zip(*parts, strict=True)
    return np.hstack(left), np.hstack(sizes), np.hstack(right)


METHOD = TaskVectorMethod(
    name="tsv-m",
    summary="first singular directions of each task, made orthogonal (TSV-M)",
    source="Gargiulo et al., arXiv 2412.00081",
    rule=tsv_m,
    options=Scaled,
    matrices=True,
)
