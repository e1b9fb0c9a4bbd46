"""What users call: each function runs the stages in order and returns a frozen result."""

from onnxmerge.api.check import check
from onnxmerge.api.compare import ModelComparison, compare
from onnxmerge.api.evaluate import evaluate
from onnxmerge.api.evaluation_result import EvaluationResult
from onnxmerge.api.fold import FoldedModel, fold
from onnxmerge.api.inspection import Inspection, inspect
from onnxmerge.api.landscape import Landscape, landscape
from onnxmerge.api.merge import merge, plan
from onnxmerge.api.outcome import MergePlan, MergeReport, MergeResult
from onnxmerge.api.permute import PermutedModel, permute
from onnxmerge.checking.report import CheckReport
from onnxmerge.pipeline.options import MergeOptions

__all__ = [
    "CheckReport",
    "EvaluationResult",
    "FoldedModel",
    "Inspection",
    "Landscape",
    "MergeOptions",
    "MergePlan",
    "MergeReport",
    "MergeResult",
    "ModelComparison",
    "PermutedModel",
    "check",
    "compare",
    "evaluate",
    "fold",
    "inspect",
    "landscape",
    "merge",
    "permute",
    "plan",
]
