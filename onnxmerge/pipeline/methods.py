"""What can be chosen by name, in one place: methods of every kind, and the own options of methods and refinements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from onnxmerge.contracts import OwnOption, own_options
from onnxmerge.matching.method import Matcher
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.merging.refinements.methods import REFINEMENTS
from onnxmerge.merging.task_vectors import TASK_VECTORS, TaskVectorMethod

AnyMethod: TypeAlias = Matcher[Any] | TaskVectorMethod[Any]

METHODS: Mapping[str, AnyMethod] = {**MATCHERS, **TASK_VECTORS}

OWN_OPTIONS: Mapping[str, OwnOption] = own_options([*METHODS.values(), *REFINEMENTS.values()])
"""Every option that some method or refinement has of its own."""


def takers(name: str) -> str:
    """The methods or refinements that have an option, in words."""
    every = OWN_OPTIONS[name].takers
    methods = [taker for taker in every if taker in METHODS]
    return f"methods {', '.join(methods)}" if methods else f"--refine {', '.join(every)}"
