"""Iso-CTS: common directions and those of single tasks, all of them alike.

Marczak et al., "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces", ICML 2025,
arXiv 2502.04959, section 4.2, algorithm 2. With r = min(out, in) and N task matrices t_i:

    sum_i t_i = U S V^T; of it the first k = ``common`` r triples are kept (0.8 in the paper);
    t_i' = t_i - U_k U_k^T t_i, and of each the first (r - k) / N triples;
    side by side, U and V of all of them made orthonormal as in TSV-M, and every singular value their mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxmerge.contracts import described
from onnxmerge.merging.task_vectors.directions import leading, orthonormal
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.options import Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoCts(Scaled):
    """``common`` is the share of all directions that are common ones."""

    common: float = field(
        default=0.8, metadata=described("Share of all directions that are common to the tasks", least=0.0, most=1.0)
    )


def iso_cts(vectors: TaskVectors, options: IsoCts) -> Floats:
    """The task vectors of one matrix [out, in], put together."""
    stack = vectors.stacked
    rank = min(stack.shape[1:])
    apart = int((1 - options.common) * rank) // len(stack)
    common = rank - apart * len(stack)
    u, s, v = leading(stack.sum(axis=0), common)
    parts = [(u, s, v), *(leading(matrix - u @ (u.T @ matrix), apart) for matrix in (stack if apart else ()))]
    left, sizes, right = zip(*parts, strict=True)
    every = np.concatenate(sizes)
    if not every.size:
        return np.zeros(vectors.shape)
    return np.asarray(every.mean() * (orthonormal(np.hstack(left)) @ orthonormal(np.hstack(right)).T))


METHOD = TaskVectorMethod(
    name="iso-cts",
    summary="common and single tasks' directions, all alike (Iso-CTS)",
    source="Marczak et al., arXiv 2502.04959",
    rule=iso_cts,
    together=True,
    options=IsoCts,
    matrices=True,
)
