"""Operators that move axes about, one family a module. Everything else is data in specs/operators."""

from onnxmerge.axes.rules import (
    attention,
    contraction,
    experts,
    indexing,
    quantisation,
    reduction,
    reshaping,
    scattering,
    segments,
)
from onnxmerge.axes.rules.registry import RULES, Rule, rule

__all__ = [
    "RULES",
    "Rule",
    "attention",
    "contraction",
    "experts",
    "indexing",
    "quantisation",
    "reduction",
    "reshaping",
    "rule",
    "scattering",
    "segments",
]
