"""What can be chosen by name, in one place: methods of every kind, and the own options of methods and refinements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from onnxmerge.contracts import OwnOption, flag, own_options
from onnxmerge.matching.method import Matcher
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.merging.refinements.methods import REFINEMENTS
from onnxmerge.merging.task_vectors import TASK_VECTORS, TaskVectorMethod

AnyMethod: TypeAlias = Matcher[Any] | TaskVectorMethod[Any]

METHODS: Mapping[str, AnyMethod] = {**MATCHERS, **TASK_VECTORS}

OWN_OPTIONS: Mapping[str, OwnOption] = own_options([*METHODS.values(), *REFINEMENTS.values()])
"""Every option that some method or refinement has of its own."""


def takers(name: str) -> str:
    """What methods or refinements have an option, in words."""
    own = OWN_OPTIONS[name]
    kind = "methods" if own.takers[0] in METHODS else "--refine"
    return f"{name if own.described.written else flag(name)} is for {kind} {', '.join(own.takers)}"
