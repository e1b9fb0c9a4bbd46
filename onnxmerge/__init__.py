"""Merge trained neural networks of one architecture, as ONNX files, without training."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnxmerge.errors import InputError, OnnxmergeError, StructureError, UsageError, ValidationError
from onnxmerge.memory import memory_limit
from onnxmerge.version import __version__

# From 1.29 on ONNX Runtime reports to its makers, and keeps what it has to say, names of the user's nodes included, in
# files under the home folder until it can. Only this variable stops that, and only before the first import, which no
# module of this package can come before. Whoever set it to something else, or imported ONNX Runtime first, has decided.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from onnxmerge.api import (
        CheckReport,
        EvaluationResult,
        FoldedModel,
        Inspection,
        Landscape,
        MergeOptions,
        MergePlan,
        MergeReport,
        MergeResult,
        ModelComparison,
        PermutedModel,
        check,
        compare,
        evaluate,
        fold,
        inspect,
        landscape,
        merge,
        permute,
        plan,
    )

__all__ = [
    "CheckReport",
    "EvaluationResult",
    "FoldedModel",
    "InputError",
    "Inspection",
    "Landscape",
    "MergeOptions",
    "MergePlan",
    "MergeReport",
    "MergeResult",
    "ModelComparison",
    "OnnxmergeError",
    "PermutedModel",
    "StructureError",
    "UsageError",
    "ValidationError",
    "__version__",
    "check",
    "compare",
    "evaluate",
    "fold",
    "inspect",
    "landscape",
    "memory_limit",
    "merge",
    "permute",
    "plan",
]


def __getattr__(name: str) -> Any:
    """What ``onnxmerge.api`` offers, imported when it is first asked for: the command line's help needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("onnxmerge.api"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
