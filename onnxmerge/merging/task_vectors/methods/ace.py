"""ACE: as ACTMat, with covariances in place of Gram matrices.

Xu et al., "ACE-Merging: Data-Free Model Merging with Adaptive Covariance Estimation", CVPR 2026, arXiv 2603.02945. The
rows of a task vector t_i [out, in] are samples of how task i's inputs vary: C_i = w_i^T w_i with w_i = t_i less the
mean of its rows; what is regressed on is all of it:

    t = (sum_i t_i C_i) (sum_i C_i)^+          (see ``actmat``).

This is the paper's estimate alone, without its normalisation of the C_i, its structural prior and its refinement.
"""

from __future__ import annotations

from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.methods.actmat import regressed
from onnxmerge.merging.task_vectors.options import Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats


def ace(vectors: TaskVectors, _options: Scaled | None = None) -> Floats:
    """The task vectors of one matrix [out, in], put together."""
    return regressed(vectors, ((weight, vector - vector.mean(axis=0)) for weight, vector in vectors))


METHOD = TaskVectorMethod(
    name="ace",
    summary="least squares on covariances guessed from what was learnt (ACE)",
    source="Xu et al., arXiv 2603.02945",
    rule=ace,
    options=Scaled,
    matrices=True,
    squares=True,
)
