"""SWUDI: the least interference between tasks, without the directions that hardly any task knows.

Wei et al., "Closed-Form Spectral Regularization for Multi-Task Model Merging", arXiv 2606.07289. The interference of
N task matrices t_i [out, in] (WUDI, Cheng et al., ICML 2025, arXiv 2503.08099),

    sum_i ||(t - t_i) t_i^T||^2 / ||t_i||^2,      C_i = t_i^T t_i / ||t_i||^2,

has its least value at t = (sum_i t_i C_i) (sum_i C_i)^-1, which small eigenvalues l of sum_i C_i = Q diag(l) Q^T fill
with noise. Gradient descent from 0 that stops at the time T has, in closed form,

    t = (sum_i t_i C_i) Q diag((1 - exp(-T l)) / l) Q^T.

Eigenvalues add up to N whatever the layer; ``time`` is T.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxmerge.contracts import described
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.options import Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Swudi(Scaled):
    """``time`` is T: directions of eigenvalues far below 1 / T are left out."""

    time: float = field(
        default=300.0, metadata=described("Where the descent to least interference stops", least=0.0, above=True)
    )


def swudi(vectors: TaskVectors, options: Swudi) -> Floats:
    """The task vectors of one matrix [out, in], put together."""
    inputs = vectors.shape[1]
    total, gram = np.zeros(vectors.shape), np.zeros((inputs, inputs))
    for weight, vector in vectors:
        size = np.square(vector).sum()
        if size > 0:
            own = weight / size * (vector.T @ vector)
            total += vector @ own
            gram += own
    values, q = np.linalg.eigh(gram)
    values = np.maximum(values, 0.0)
    flat = values * options.time < 1e-8  # where (1 - exp(-T l)) / l has its limit T
    kept = np.where(flat, options.time, -np.expm1(-options.time * values) / np.where(flat, 1.0, values))
    return np.asarray(total @ q * kept @ q.T)


METHOD = TaskVectorMethod(
    name="swudi",
    summary="least interference, stopped before noise (SWUDI)",
    source="Wei et al., arXiv 2606.07289",
    rule=swudi,
    options=Swudi,
    matrices=True,
    squares=True,
)
