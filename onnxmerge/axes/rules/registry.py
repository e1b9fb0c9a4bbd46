"""The table of Python rules that specs/operators refers to by name."""

from __future__ import annotations

from collections.abc import Callable

from onnxmerge.axes.node_context import NodeContext
from onnxmerge.axes.signature import Axes

Rule = Callable[[NodeContext], tuple[Axes | None, ...]]
"""Unifies the cells of a node's operands and returns the axes of its outputs (None: shape unknown)."""

RULES: dict[str, Rule] = {}


def rule(name: str, typed: int | None = 1) -> Callable[[Rule], Rule]:
    """Register a rule under the name that specs/operators uses.

    It types the first ``typed`` operands (None: all). What it only reads, such as the scales of a Resize, may be a
    float initializer with units of its own like any other: all other operands are fixed.
    """

    def register(function: Rule) -> Rule:
        def apply(context: NodeContext) -> tuple[Axes | None, ...]:
            for axes in context.operands()[typed:] if typed is not None else ():
                context.fix(axes or (), "an operand that is read as a whole")
            return function(context)

        RULES[name] = apply
        return function

    return register
