"""MuDSC: the units of all models are zipped together by weights and activations (Xu et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxmerge.contracts import NumberOrAuto, number
from onnxmerge.matching.method import Matcher
from onnxmerge.matching.options import Zips, share_of_weights
from onnxmerge.matching.zip_method import zip_together


@dataclass(frozen=True, slots=True, kw_only=True)
class MudscZip(Zips):
    """``alpha`` is the share of weights in what is compared."""

    alpha: NumberOrAuto = field(default=0.5, metadata=share_of_weights(activations="zipit", weights="weight-zip"))


METHOD = Matcher(
    name="mudsc-zip",
    summary="zip by weights and activations (MuDSC)",
    source="Xu et al., arXiv 2403.01753",
    needs=("weights", "activations"),
    match=lambda problem, options: zip_together(problem, options, number(options.alpha, "alpha")),
    options=MudscZip,
    zips=True,
    all_pairs=True,
    rank=6,
)
