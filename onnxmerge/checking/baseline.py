"""An earlier report to compare with: what failed then may fail now, but nothing may have got worse."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace

from pydantic import ValidationError

from onnxmerge.checking.finding import Finding, Measured
from onnxmerge.checking.formats.schema import Report
from onnxmerge.checking.report import CheckReport
from onnxmerge.documents import first_fault
from onnxmerge.errors import InputError
from onnxmerge.files import named, read_text

SLACK = 1e-6
"""Of a measured value: less is rounding."""


def read_baseline(path: str | os.PathLike[str]) -> Report:
    """A report that ``--save-baseline`` wrote. Raises InputError."""
    try:
        return Report.model_validate_json(read_text(path, "a baseline"))
    except ValidationError as error:
        told = first_fault(error, "the file")
        raise InputError(f"{named(path)}: is no baseline ({told}); write one with --save-baseline") from error


def held_against(report: CheckReport, baseline: Report) -> CheckReport:
    """The report in which only what got worse since the baseline blocks the model.

    A failure that the baseline has too, and no worse, becomes a warning. A value that is measured only fails where it
    is worse than it was. A gate that passed then and is asked of nothing now fails.
    """
    before = {(each.id, each.where): each for each in baseline.findings}
    return replace(report, findings=(*(_held(each, before) for each in report.findings), *_gone(report, baseline)))


def _held(finding: Finding, before: dict[tuple[str, str], Finding]) -> Finding:
    old = before.get((finding.id, finding.where))
    if old is None:
        return finding
    worse = _worse(finding, old)
    if finding.blocks and old.blocks and not worse:
        return replace(finding, severity="warning", remedy=f"as in the baseline: {finding.remedy}")
    if finding.verdict == "skipped" and worse:
        told = f"worse than in the baseline; {finding.remedy}"
        return replace(finding, verdict="fail", threshold=old.measured, remedy=told)
    return finding


def _worse(finding: Finding, old: Finding) -> bool:
    """Whether a number is worse; False where neither way is."""
    now, then, better = _number(finding.measured), _number(old.measured), finding.higher_is_better
    if better is None or now is None or then is None:
        return False
    slack = SLACK * abs(then) if math.isfinite(then) else 0.0
    return not (now >= then - slack if better else now <= then + slack)


def _number(measured: Measured) -> float | None:
    """What was measured; reports write numbers that are not finite as text."""
    if isinstance(measured, str):
        return float(measured) if measured in ("inf", "-inf") else None
    return measured


def _gone(report: CheckReport, baseline: Report) -> Iterator[Finding]:
    """What passed in the baseline, and is not evaluated any more."""
    now = {each.id for each in report.findings if each.verdict != "skipped"}
    for gate in dict.fromkeys(each.id for each in baseline.findings if each.verdict == "pass"):
        if gate not in now:
            told = "ask it as the baseline did, or save a new baseline"
            yield Finding(gate, "error", "", "not evaluated", "passed in the baseline", "fail", told)
