"""DARE: drop most of what the models learnt at random, rescale the rest (Yu et al., ICML 2024, arXiv 2311.03099).

With tau_m = W_m - W_0 the task vector of model m and p the drop rate (section 3.1):

    mask ~ Bernoulli(p),     tau_m' = (1 - mask) tau_m / (1 - p),

whose expectation is tau_m; then they are added up by task arithmetic, W = W_0 + lambda sum_m tau_m'. ``density`` is
1 - p. The paper drops 90 % and more in large language models; small networks have less to spare.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.options import DENSITY, SCALE, Scale, Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Dare(Scaled):
    """``scale`` is lambda, ``density`` 1 - p."""

    scale: Scale = field(default=0.4, metadata=SCALE)
    density: float = field(default=0.5, metadata=DENSITY)


def dare(vectors: TaskVectors, options: Dare) -> Floats:
    """The (weighted) sum of the thinned task vectors of one tensor, by the tensor's own random numbers."""
    density, rng = options.density, vectors.rng
    total = np.zeros(vectors.shape)
    for weight, vector in vectors:
        kept = rng.random(vector.shape) < density
        total += weight / density * np.where(kept, vector, 0.0)
    return total


METHOD = TaskVectorMethod(
    name="dare",
    summary="random changes, scaled up, added up (DARE)",
    source="Yu et al., arXiv 2311.03099",
    rule=dare,
    options=Dare,
)
