"""The units of all models are zipped together by weights alone."""

from __future__ import annotations

from onnxmerge.matching.method import Matcher
from onnxmerge.matching.options import Zips
from onnxmerge.matching.zip_method import zip_together

METHOD = Matcher(
    name="weight-zip",
    summary="zip by weights alone",
    source="Stoica et al., arXiv 2305.03053",
    needs=("weights",),
    match=lambda problem, options: zip_together(problem, options, 1.0),
    options=Zips,
    zips=True,
    all_pairs=True,
    rank=5,
)
