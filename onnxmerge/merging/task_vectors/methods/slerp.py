"""SLERP: two models, along the arc between them.

Shoemake, "Animating Rotation with Quaternion Curves", Computer Graphics 19, 1985. With omega the angle between a
tensor of the one model and of the other, and s the share of the second (``--weights``, by default a half),

    W = sin((1 - s) omega) / sin(omega) W_1 + sin(s omega) / sin(omega) W_2.

Where a base is given, the arc is between what they learnt since (NuSLERP in mergekit). Tensors that point the same way
are averaged.
"""

from __future__ import annotations

import numpy as np

from onnxmerge.contracts import Options
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats

PARALLEL = 1 - 1e-6
"""Cosines beyond which an arc is a straight line."""


def slerp(vectors: TaskVectors, _options: Options | None = None) -> Floats:
    """The point of the arc between two vectors of one tensor."""
    (_, one), (weight, other) = vectors
    share = weight / 2
    lengths = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    cosine = float(np.vdot(one, other)) / lengths if lengths > 0 else 1.0
    if abs(cosine) > PARALLEL:
        return (1 - share) * one + share * other
    omega = np.arccos(cosine)
    return np.asarray((np.sin((1 - share) * omega) * one + np.sin(share * omega) * other) / np.sin(omega))


METHOD = TaskVectorMethod(
    name="slerp",
    summary="two models, along the arc between them (SLERP)",
    source="Shoemake, Computer Graphics 19, 1985",
    rule=slerp,
    options=Options,
    needs=(),
    models=2,
)
