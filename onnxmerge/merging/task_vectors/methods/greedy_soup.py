"""Greedy soup: the mean of those fine-tuned models that do not make it worse on held-out data.

Wortsman et al., ICML 2022, arXiv 2203.05482, recipe 1. The models are sorted by their held-out accuracy. The best is
the first ingredient; each of the others, in order, becomes one if the mean of the ingredients is no less accurate with
it. Which models these are is found by ``pipeline.selection.ingredients``; here they are averaged.
"""

from __future__ import annotations

from onnxmerge.contracts import Options
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.vectors import TaskVectors, mean_vector
from onnxmerge.types import Floats


def greedy_soup(vectors: TaskVectors, _options: Options | None = None) -> Floats:
    """The mean of what the ingredients learnt."""
    return mean_vector(vectors)


METHOD = TaskVectorMethod(
    name="greedy-soup",
    summary="the mean of those fine-tuned models that do not lower held-out accuracy (greedy soup)",
    source="Wortsman et al., arXiv 2203.05482",
    rule=greedy_soup,
    options=Options,
    needs=("activations", "labels"),
)
