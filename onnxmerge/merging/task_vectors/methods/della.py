"""DELLA: changes are dropped at random, small ones more often; then those that agree in sign.

Deep et al., "DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling", arXiv 2406.11617,
section 3. Of each tensor of a task vector:

    drop     entry i of rank r_i (0 the smallest of n) is kept with probability q_i = density + epsilon (r_i / n - 1/2),
             and divided by q_i;
    elect    the sign of the sum over models, entry by entry;
    fuse     the mean of those entries that have it.

W = W_0 + lambda t. The paper ranks entries inside each row, here they are ranked inside each tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxmerge.contracts import Options, described
from onnxmerge.errors import UsageError
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.methods.ties import Ties, ties
from onnxmerge.merging.task_vectors.options import DENSITY, Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Della(Scaled):
    """``scale`` is lambda, ``density`` 1 - p; probabilities lie ``epsilon`` / 2 around it."""

    density: float = field(default=0.5, metadata=DENSITY)
    epsilon: float = field(
        default=0.2, metadata=described("How far the probability to be kept spreads", least=0.0, most=1.0)
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.density - self.epsilon / 2 <= 0 or self.density + self.epsilon / 2 > 1:
            raise UsageError(
                f"--epsilon {self.epsilon:g}: spreads the probability to be kept around --density {self.density:g}, "
                "half of it to each side; expected all above 0 and at most 1"
            )


def della(vectors: TaskVectors, options: Della) -> Floats:
    """The task vectors of one tensor, thinned out, where they agree in sign."""
    rng = vectors.rng
    thinned = [_thinned(vector, options, rng) for _, vector in vectors]
    kept = TaskVectors(vectors.name, vectors.shape, vectors.weights, lambda index: thinned[index], vectors.seed)
    return ties(kept, Ties(density=1.0))


def _thinned(vector: Floats, options: Della, rng: np.random.Generator) -> Floats:
    order = np.argsort(np.abs(vector), axis=None, kind="stable")
    ranks = np.empty(order.size)
    ranks[order] = np.arange(order.size) / order.size
    probabilities = (options.density + options.epsilon * (ranks - 0.5)).reshape(vector.shape)
    return np.where(rng.random(vector.shape) < probabilities, vector / probabilities, 0.0)


METHOD = TaskVectorMethod(
    name="della",
    summary="random changes, large ones rather, that agree in sign (DELLA)",
    source="Deep et al., arXiv 2406.11617",
    rule=della,
    together=True,
    options=Della,
)
