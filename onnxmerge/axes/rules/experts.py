"""Mixtures of experts in one operator."""

from __future__ import annotations

from onnxmerge.axes.node_context import NodeContext
from onnxmerge.axes.rules.contraction import apply_patterns
from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.signature import Axes

_FUSED = {0: "h", 1: "(h 2)", 2: "(2 h)"}
"""Rows of an expert's first layer, by `swiglu_fusion`: gates and values apart, interleaved, one after the other."""


@rule("mixture_of_experts", typed=None)
def mixture_of_experts(context: NodeContext) -> tuple[Axes | None, ...]:
    """com.microsoft MoE: experts e with hidden units h of their own; which of them work follows their probabilities."""
    shape, fused = context.shape(0), int(context.attribute("swiglu_fusion", 0))
    if shape is None or len(shape) not in {2, 3} or fused not in _FUSED:
        return context.freeze("experts packed in an unknown way")
    tokens, rows = ("t", "t") if len(shape) == 2 else ("n s", "(n s)")
    first = _FUSED[fused]
    inputs = [f"{tokens} d", f"{rows} e", f"e {first} d", f"e {first}", "e o h", "e o", "e h d", "e h"]
    return apply_patterns(context, inputs[: len(context.node.inputs)], [f"{tokens} o"], mixes=("d", "o"))
