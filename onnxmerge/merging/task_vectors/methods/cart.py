"""CART: what each task adds to the mean of all, its first directions alone.

Choi et al., "Revisiting Weight Averaging for Model Merging", arXiv 2412.12153, section 4. With W_avg the mean of the N
models, which takes the place of the base,

    W = W_avg + lambda sum_i SVD_k(W_i - W_avg),

SVD_k the best approximation of rank k, k = ``rank`` min(out, in): 8 % in the paper (all of it would be W_avg again).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxmerge.contracts import described
from onnxmerge.merging.task_vectors.directions import leading
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.options import Scale, Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Cart(Scaled):
    """``scale`` is lambda. It cannot be searched: what was learnt adds up to nothing around the mean."""

    scale: Scale = field(default=1.0, metadata=described("Multiplies what is added to the mean"))
    depth: Scale = field(default=0.0, metadata=described("How much more last layers count", least=-1, most=1))
    rank: float = field(
        default=0.08, metadata=described("Share of a matrix' directions that is kept", least=0.0, most=1.0, above=True)
    )


def cart(vectors: TaskVectors, options: Cart) -> Floats:
    """The sum of the first directions of one matrix' centred task vectors [out, in]."""
    kept = max(round(options.rank * min(vectors.shape)), 1)
    total = np.zeros(vectors.shape)
    for weight, vector in vectors:
        u, s, v = leading(vector, kept)
        total += weight * (u * s @ v.T)
    return total


METHOD = TaskVectorMethod(
    name="cart",
    summary="the mean, and each task's first directions from it (CART)",
    source="Choi et al., arXiv 2412.12153",
    rule=cart,
    options=Cart,
    matrices=True,
    origin="mean",
    needs=(),
)
