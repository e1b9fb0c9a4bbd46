"""No matching: units stay where they are, as in fine-tunes of one network."""

from __future__ import annotations

from onnxmerge.contracts import Options
from onnxmerge.matching.align_method import align
from onnxmerge.matching.method import Matcher, MatchProblem, MatchResult
from onnxmerge.matching.overrides import Overrides


def average(problem: MatchProblem, _options: Options) -> MatchResult:
    """Leave every model in its order."""
    return align(problem, Overrides(), 1.0, matched=False)


METHOD = Matcher(
    name="average",
    summary="no matching: the plain average",
    source="",
    match=average,
    options=Options,
    rank=0,
)
