"""ACTMat: RegMean whose Gram matrices are guessed from what was learnt.

A gradient of a linear layer is an outer product with its input, so a task vector t_i [out, in] spans what task i feeds
the layer, and C_i = t_i^T t_i stands for the Gram matrix of its inputs:

    t = (sum_i t_i C_i) (sum_i C_i)^+,

which minimises sum_i ||(t - t_i) t_i^T||^2 (the interference of Cheng et al., ICML 2025, arXiv 2503.08099).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.options import Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats

SINGULAR = 1e-15
"""Eigenvalues below this part of the largest are none (numpy's ``pinv``)."""


def actmat(vectors: TaskVectors, _options: Scaled | None = None) -> Floats:
    """The task vectors of one matrix [out, in], put together."""
    return regressed(vectors, vectors)


def regressed(targets: TaskVectors, witnesses: Iterable[tuple[float, Floats]]) -> Floats:
    """(sum_i t_i C_i) (sum_i C_i)^+ with t_i a target and C_i the Gram matrix of its witness [out, in]."""
    inputs = targets.shape[1]
    total, gram = np.zeros(targets.shape), np.zeros((inputs, inputs))
    for (weight, target), (_, witness) in zip(targets, witnesses, strict=True):
        own = weight * (witness.T @ witness)
        total += target @ own
        gram += own
    values, directions = np.linalg.eigh(gram)
    sizes = np.abs(values)
    known = sizes > SINGULAR * sizes.max(initial=0.0)
    inverse = np.divide(1.0, values, out=np.zeros_like(values), where=known)
    return np.asarray(total @ directions * inverse @ directions.T)


METHOD = TaskVectorMethod(
    name="actmat",
    summary="least squares on inputs guessed from what was learnt (ACTMat)",
    source="the objective of Cheng et al., arXiv 2503.08099",
    rule=actmat,
    options=Scaled,
    matrices=True,
    squares=True,
)
