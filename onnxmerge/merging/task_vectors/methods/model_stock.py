"""Model stock: as far from the base to the mean as the models agree.

Jang et al., "Model Stock: All We Need Is Just a Few Fine-Tuned Models", ECCV 2024, arXiv 2403.19522, section 3. With
theta the angle between two task vectors of a tensor (the mean of the cosines over all pairs of N models),

    t = N cos(theta) / (1 + (N - 1) cos(theta)),      W = t W_avg + (1 - t) W_0.

Models that have nothing in common leave the base. There is no scale: the ratio is the closed form.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from onnxmerge.contracts import Options
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.vectors import TaskVectors, mean_vector
from onnxmerge.types import Floats


def model_stock(vectors: TaskVectors, _options: Options | None = None) -> Floats:
    """The mean of the task vectors of one tensor, times their ratio."""
    rows = [vector.reshape(-1) for _, vector in vectors]
    lengths = [float(np.linalg.norm(row)) for row in rows]
    cosines = [
        float(rows[a] @ rows[b]) / (lengths[a] * lengths[b]) if lengths[a] * lengths[b] > 0 else 0.0
        for a, b in combinations(range(len(rows)), 2)
    ]
    cosine = max(float(np.mean(cosines)), 0.0) if cosines else 1.0
    return len(rows) * cosine / (1 + (len(rows) - 1) * cosine) * mean_vector(vectors)


METHOD = TaskVectorMethod(
    name="model-stock",
    summary="towards the mean as far as the models agree (model stock)",
    source="Jang et al., arXiv 2403.19522",
    rule=model_stock,
    together=True,
    options=Options,
)
