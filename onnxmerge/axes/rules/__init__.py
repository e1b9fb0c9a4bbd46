"""Operators that move axes about, one family a module. Everything else is data in specs/operators."""

from onnxmerge.axes.rules import contraction, indexing, reduction, reshaping, segments
from onnxmerge.axes.rules.registry import RULES, Rule, rule

__all__ = ["RULES", "Rule", "contraction", "indexing", "reduction", "reshaping", "rule", "segments"]
