"""Merge trained neural networks of one architecture, as ONNX files, without training."""

from onnxmerge.api import (
    EvaluationResult,
    Inspection,
    MergeOptions,
    MergeReport,
    MergeResult,
    PermutedModel,
    evaluate,
    inspect,
    merge,
    permute,
)
from onnxmerge.errors import InputError, OnnxmergeError, StructureError, UsageError, ValidationError
from onnxmerge.version import __version__

__all__ = [
    "EvaluationResult",
    "InputError",
    "Inspection",
    "MergeOptions",
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
]
