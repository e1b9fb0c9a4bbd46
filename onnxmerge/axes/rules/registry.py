"""The table of Python rules that specs/operators refers to by name."""

from __future__ import annotations

from collections.abc import Callable

from onnxmerge.axes.signature import Axes
from onnxmerge.axes.site import Site

Rule = Callable[[Site], tuple[Axes | None, ...]]
"""Unifies the cells of a node's operands and returns the axes of its outputs (None: shape unknown)."""

RULES: dict[str, Rule] = {}


def rule(name: str) -> Callable[[Rule], Rule]:
    """Register a rule under the name that specs/operators uses."""

    def register(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return register
