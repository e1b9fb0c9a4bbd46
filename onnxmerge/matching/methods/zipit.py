"""ZipIt!: the units of all models are zipped together by activations alone, in one pass (Stoica et al., ICLR 2024)."""

from __future__ import annotations

from onnxmerge.matching.method import Matcher
from onnxmerge.matching.options import Zips
from onnxmerge.matching.zip_method import zip_together

METHOD = Matcher(
    name="zipit",
    summary="zip by activations alone, one pass (ZipIt!)",
    source="Stoica et al., arXiv 2305.03053",
    needs=("activations",),
    match=lambda problem, options: zip_together(problem, options, 0.0),
    options=Zips,
    zips=True,
    all_pairs=True,
    rank=4,
)
