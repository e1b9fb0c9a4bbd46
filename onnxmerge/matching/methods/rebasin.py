"""Git Re-Basin: every other model is aligned to the first by weights alone (Ainsworth et al., ICLR 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxmerge.matching.align_method import align
from onnxmerge.matching.method import Matcher
from onnxmerge.matching.options import OBJECTIVE, Rules
from onnxmerge.matching.similarity import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebasin(Rules):
    """``objective`` inner is the paper's."""

    objective: Objective = field(default="correlation", metadata=OBJECTIVE)


METHOD = Matcher(
    name="rebasin",
    summary="weights alone (Git Re-Basin)",
    source="Ainsworth et al., arXiv 2209.04836",
    needs=("weights",),
    match=lambda problem, options: align(problem, options.overrides(problem.typing), 1.0, objective=options.objective),
    options=Rebasin,
    rank=1,
)
