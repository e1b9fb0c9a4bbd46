"""TIES: trim, elect sign, disjoint mean (Yadav et al., NeurIPS 2023, arXiv 2306.01708, section 4, algorithm 1).

With tau_m = W_m - W_0 the task vector of model m:

    trim             keep the ``density`` largest entries of each tau_m by magnitude, zero for the rest;
    elect sign       gamma = sgn(sum_m tau_m), entry by entry;
    disjoint mean    the mean of those trimmed entries whose sign is gamma.

W = W_0 + lambda tau. The paper keeps 20 % and takes lambda = 1 where there is nothing to choose by. It trims each task
vector as a whole; here every tensor is trimmed by itself, so that one tensor at a time is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.options import DENSITY, Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties(Scaled):
    """``scale`` is lambda."""

    density: float = field(default=0.2, metadata=DENSITY)


def ties(vectors: TaskVectors, options: Ties) -> Floats:
    """The disjoint mean of the trimmed task vectors of one tensor; 0 where their sum has no sign."""
    least = [least_kept(vector, options.density) for _, vector in vectors]
    return vectors.by_entries(partial(_agreeing, least))


def _agreeing(least: Sequence[float], vectors: TaskVectors) -> Floats:
    """The same of some entries, ``least`` being the size of the smallest that each model keeps."""
    kept = [(weight, _trimmed(vector, own)) for own, (weight, vector) in zip(least, vectors, strict=True)]
    elected = np.sign(sum(weight * vector for weight, vector in kept))
    total, count = np.zeros(vectors.shape), np.zeros(vectors.shape)
    for weight, vector in kept:
        agrees = (vector != 0) & (np.sign(vector) == elected)
        total += weight * np.where(agrees, vector, 0.0)
        count += weight * agrees
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)


def trimmed(vector: Floats, density: float) -> Floats:
    """The largest entries by magnitude, a share ``density`` of all, rounded down as in published code, at least one.

    Entries of equal size are kept together.
    """
    return _trimmed(vector, least_kept(vector, density))


def least_kept(vector: Floats, density: float) -> float:
    """The size of the smallest entry that trimming keeps."""
    size = np.abs(vector).reshape(-1)
    kept = max(math.floor(density * size.size + 1e-9), 1)
    if kept >= size.size:
        return 0.0
    size.partition(size.size - kept)
    return float(size[size.size - kept])


def _trimmed(vector: Floats, least: float) -> Floats:
    return np.where(np.abs(vector) >= least, vector, 0.0)


METHOD = TaskVectorMethod(
    name="ties",
    summary="the largest changes that agree in sign (TIES)",
    source="Yadav et al., arXiv 2306.01708",
    rule=ties,
    options=Ties,
)
