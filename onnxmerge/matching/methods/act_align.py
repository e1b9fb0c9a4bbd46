"""Every other model is aligned to the first by activations alone, in one pass."""

from __future__ import annotations

from onnxmerge.matching.align_method import align
from onnxmerge.matching.method import Matcher
from onnxmerge.matching.options import Rules

METHOD = Matcher(
    name="act-align",
    summary="activations alone, one pass",
    source="Li et al., arXiv 1511.07543",
    needs=("activations",),
    match=lambda problem, options: align(problem, options.overrides(problem.typing), 0.0),
    options=Rules,
    rank=2,
)
