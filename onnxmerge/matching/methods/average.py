"""No matching: units stay where they are, as in fine-tunes of one network."""

from __future__ import annotations

from onnxmerge.contracts import Options
from onnxmerge.matching.align_method import align
from onnxmerge.matching.method import Matcher
from onnxmerge.matching.overrides import Overrides

METHOD = Matcher(
    name="average",
    summary="no matching: the plain average",
    source="",
    match=lambda problem, _: align(problem, Overrides(), 1.0, matched=False),
    options=Options,
    rank=0,
)
