"""Uniform soup: the mean of fine-tuned models (Wortsman et al., ICML 2022, arXiv 2203.05482, section 2)."""

from __future__ import annotations

import numpy as np

from onnxmerge.contracts import Options
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


def soup(vectors: TaskVectors, _options: Options | None = None) -> Floats:
    """Nothing is added to the mean, which is the origin."""
    return np.zeros(vectors.shape)


METHOD = TaskVectorMethod(
    name="soup",
    summary="the mean of fine-tuned models (uniform soup)",
    source="Wortsman et al., arXiv 2203.05482",
    rule=soup,
    options=Options,
    origin="mean",
    needs=(),
)
