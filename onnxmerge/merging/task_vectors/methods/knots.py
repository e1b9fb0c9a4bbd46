"""KnOTS: what was learnt is merged in coordinates that all tasks share.

Stoica et al., "Model Merging with SVD to Tie the Knots", ICLR 2025, arXiv 2410.19735, section 4. Of N task matrices,

    [t_1 ... t_N] = U S [V_1 ... V_N]     (side by side [out, N in]),      t = U S merge(V_1 ... V_N),

with any other method for the merge of the V_i [r, in]: ``inner``. Made for LoRA, whose changes hardly overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from onnxmerge.contracts import Options, described
from onnxmerge.errors import UsageError
from onnxmerge.merging.task_vectors.directions import leading
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.methods.dare import Dare, dare
from onnxmerge.merging.task_vectors.methods.iso_c import iso_c
from onnxmerge.merging.task_vectors.methods.ties import Ties, ties
from onnxmerge.merging.task_vectors.methods.tsv_m import tsv_m
from onnxmerge.merging.task_vectors.options import DENSITY, Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors, mean_vector, of_arrays
from onnxmerge.types import Floats

Inner = Literal["mean", "ties", "dare", "tsv-m", "iso-c"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Knots(Scaled):
    """``inner`` merges the V_i; ``density`` is that of TIES and DARE (None: as they have it)."""

    inner: Inner = field(
        default="tsv-m",
        metadata=described("What merges tasks in coordinates that they share", words=get_args(Inner)),
    )
    density: float | None = field(default=None, metadata={"described": replace(DENSITY["described"], optional=True)})

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.density is not None and self.inner not in ("ties", "dare"):
            raise UsageError(
                f"--density is for --inner ties and dare; --inner {self.inner} drops nothing; leave it out"
            )


def knots(vectors: TaskVectors, options: Knots) -> Floats:
    """The task vectors of one matrix [out, in], put together."""
    rows, columns = vectors.shape
    side = np.empty((rows, len(vectors), columns))
    for index, (weight, vector) in enumerate(vectors):
        np.multiply(vector, weight, out=side[:, index])
    u, s, v = leading(side.reshape(rows, -1), min(rows, len(vectors) * columns))
    del side
    shared = of_arrays(v.T.reshape(len(s), len(vectors), columns).swapaxes(0, 1), vectors.name, vectors.seed)
    return u * s @ _inner(shared, options)


def _inner(shared: TaskVectors, options: Knots) -> Floats:
    if options.inner == "ties":
        return ties(shared, Ties() if options.density is None else Ties(density=options.density))
    if options.inner == "dare":  # adds up what the mean divides
        return dare(shared, Dare() if options.density is None else Dare(density=options.density)) / len(shared)
    if options.inner == "iso-c":
        return iso_c(shared)
    return tsv_m(shared) if options.inner == "tsv-m" else mean_vector(shared)


METHOD = TaskVectorMethod(
    name="knots",
    summary="merged in directions that all tasks share (KnOTS)",
    source="Stoica et al., arXiv 2410.19735",
    rule=knots,
    together=True,
    options=Knots,
    matrices=True,
)
