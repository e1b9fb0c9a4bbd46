"""Task arithmetic: add up what the models learnt (Ilharco et al., ICLR 2023, arXiv 2212.04089, section 2).

With tau_m = W_m - W_0 the task vector of model m, the merged model is

    W = W_0 + lambda sum_m tau_m,

with lambda from 0.3 to 0.5 in the paper for many pairs of tasks (section 4.2 and appendix).
"""

from __future__ import annotations

import numpy as np

from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


def task_arithmetic(vectors: TaskVectors) -> Floats:
    """The (weighted) sum of the task vectors of one tensor."""
    total = np.zeros(vectors.base.shape)
    for weight, vector in vectors:
        total += weight * vector
    return total
