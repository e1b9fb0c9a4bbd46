"""Merge trained neural networks of one architecture, as ONNX files, without training."""

from onnxmerge.api import (
    EvaluationResult,
    Inspection,
    MergeOptions,
    MergePlan,
    MergeReport,
    MergeResult,
    PermutedModel,
    evaluate,
    inspect,
    merge,
    permute,
    plan,
)
from onnxmerge.errors import InputError, OnnxmergeError, StructureError, UsageError, ValidationError
from onnxmerge.version import __version__

__all__ = [
    "EvaluationResult",
    "InputError",
    "Inspection",
    "MergeOptions",
    "MergePlan",
    "MergeReport",
    "MergeResult",
    "OnnxmergeError",
    "PermutedModel",
    "StructureError",
    "UsageError",
    "ValidationError",
    "__version__",
    "evaluate",
    "inspect",
    "merge",
    "permute",
    "plan",
]
