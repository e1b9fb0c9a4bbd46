"""No matching: units stay where they are, as in fine-tunes of one network."""

from __future__ import annotations

from onnxmerge.contracts import Options
from onnxmerge.matching.method import Matcher, MatchProblem, MatchResult
from onnxmerge.units.permutations import identity


def average(problem: MatchProblem, _options: Options) -> MatchResult:
    """Every model in its own order; nothing is compared, so no weight is read."""
    return MatchResult((identity(problem.typing.spaces),) * (len(problem.weights) - 1))


METHOD = Matcher(
    name="average",
    summary="no matching: the plain average",
    source="",
    match=average,
    options=Options,
    moves=False,
    rank=0,
)
