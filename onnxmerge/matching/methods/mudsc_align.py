"""MuDSC: every other model is aligned to the first by weights and activations (Xu et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxmerge.contracts import NumberOrAuto, number
from onnxmerge.matching.align_method import align
from onnxmerge.matching.method import Matcher
from onnxmerge.matching.options import Rules, share_of_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class MudscAlign(Rules):
    """``alpha`` is the share of weights in what is compared."""

    alpha: NumberOrAuto = field(default=0.5, metadata=share_of_weights(activations="act-align", weights="rebasin"))


METHOD = Matcher(
    name="mudsc-align",
    summary="weights and activations (MuDSC)",
    source="Xu et al., arXiv 2403.01753",
    needs=("weights", "activations"),
    match=lambda problem, options: align(problem, options.overrides(problem.typing), number(options.alpha, "alpha")),
    options=MudscAlign,
    rank=3,
)
