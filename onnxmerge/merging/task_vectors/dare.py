"""DARE: drop most of what the models learnt at random, rescale the rest (Yu et al., ICML 2024, arXiv 2311.03099).

With tau_m = W_m - W_0 the task vector of model m and p the drop rate (section 3.1):

    mask ~ Bernoulli(p),     tau_m' = (1 - mask) tau_m / (1 - p),

whose expectation is tau_m; then they are added up by task arithmetic, W = W_0 + lambda sum_m tau_m'. ``density`` is
1 - p. The paper drops 90 % and more in large language models; small networks have less to spare.
"""

from __future__ import annotations

import numpy as np

from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


def dare(vectors: TaskVectors) -> Floats:
    """The (weighted) sum of the thinned task vectors of one tensor, by the tensor's own random numbers."""
    density, rng = vectors.settings.density, vectors.rng
    total = np.zeros(vectors.base.shape)
    for weight, vector in vectors:
        kept = rng.random(vector.shape) < density
        total += weight / density * np.where(kept, vector, 0.0)
    return total
