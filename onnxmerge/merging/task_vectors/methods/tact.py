"""TACT: as ACTMat, with Gram matrices of the largest changes alone.

The smallest entries of a task vector are mostly noise. C_i = w_i^T w_i with w_i the task vector t_i [out, in] trimmed
to the share ``density`` of its entries that are largest by magnitude; what is regressed on is all of it:

    t = (sum_i t_i C_i) (sum_i C_i)^+          (see ``actmat``, arXiv 2503.08099, and for trimming arXiv 2306.01708).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.methods.actmat import regressed
from onnxmerge.merging.task_vectors.methods.ties import trimmed
from onnxmerge.merging.task_vectors.options import DENSITY, Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Tact(Scaled):
    """``density`` is of the task vectors that inputs are guessed from."""

    density: float = field(default=0.5, metadata=DENSITY)


def tact(vectors: TaskVectors, options: Tact) -> Floats:
    """The task vectors of one matrix [out, in], put together."""
    return regressed(vectors, ((weight, trimmed(vector, options.density)) for weight, vector in vectors))


METHOD = TaskVectorMethod(
    name="tact",
    summary="least squares on inputs guessed from the largest changes (TACT)",
    source="the objective of Cheng et al., arXiv 2503.08099",
    rule=tact,
    options=Tact,
    matrices=True,
    squares=True,
)
