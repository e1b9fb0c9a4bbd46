"""The units of all models are zipped together by weights alone."""

from __future__ import annotations

from onnxmerge.matching.method import Matcher, MatchProblem, MatchResult
from onnxmerge.matching.options import Zips
from onnxmerge.matching.zip_method import zip_together


def weight_zip(problem: MatchProblem, options: Zips) -> MatchResult:
    """Zip by weights."""
    return zip_together(problem, options, 1.0)


METHOD = Matcher(
    name="weight-zip",
    summary="zip by weights alone",
    source="Stoica et al., arXiv 2305.03053",
    needs=("weights",),
    match=weight_zip,
    options=Zips,
    zips=True,
    all_pairs=True,
    rank=5,
)
