"""Assertions about ONNX models, for those whose CI is pytest.

    from onnxmerge.testing import assert_certified, assert_equivalent, assert_no_drop

    def test_the_export() -> None:
        assert_certified("exported.onnx")
        assert_equivalent("optimised.onnx", "exported.onnx", data="samples.npy")

Each raises AssertionError that says which gates failed and why; onnxmerge.InputError where a file cannot be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxmerge.api.check import check
from onnxmerge.calibration.sources import SourceSpec
from onnxmerge.checking.report import CheckReport
from onnxmerge.evaluation.labels import LabelSpec
from onnxmerge.pipeline.prepare import ModelSource

__all__ = ["assert_certified", "assert_equivalent", "assert_no_drop", "assert_passes"]


def assert_passes(model: ModelSource, **options: Any) -> CheckReport:
    """Hold a model to the gates of ``onnxmerge.check``, with its arguments; the report."""
    __tracebackhide__ = True
    report = check(model, **options)
    if not report.passed:
        told = "\n".join(f"  {each.id} {each.where}: {each.measured}; {each.remedy}" for each in report.failures)
        raise AssertionError(f"{report.model}:\n{told or '  nothing was checked'}")
    return report


def assert_equivalent(
    model: ModelSource,
    reference: ModelSource,
    *,
    data: SourceSpec | None = None,
    max_error: float = 1e-4,
    **options: Any,
) -> CheckReport:
    """Two models answer alike: no value differs by more than ``max_error`` of the largest (on a synthetic sample)."""
    __tracebackhide__ = True
    return assert_passes(model, against=[reference], data=data, max_error=max_error, **options)


def assert_certified(model: ModelSource, **options: Any) -> CheckReport:
    """The units of a model that are free can be reordered: see ``onnxmerge inspect --certify``."""
    __tracebackhide__ = True
    return assert_passes(model, certify=True, **options)


def assert_no_drop(
    model: ModelSource,
    parents: Sequence[ModelSource],
    *,
    data: SourceSpec,
    labels: LabelSpec,
    max_drop: float = 1.0,
    **options: Any,
) -> CheckReport:
    """A model lost at most ``max_drop`` points of accuracy at each task against the parents that learned it."""
    __tracebackhide__ = True
    return assert_passes(model, against=parents, data=data, labels=labels, max_drop=max_drop, **options)
