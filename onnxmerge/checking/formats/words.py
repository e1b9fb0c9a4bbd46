"""Findings in words, for all formats alike."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from onnxmerge.checking.finding import Finding, Measured
from onnxmerge.checking.gate import UNSELECTED
from onnxmerge.checking.report import FAILED, NOTHING_CHECKED, PASSED, CheckReport
from onnxmerge.text import printable


def sentence(finding: Finding) -> str:
    """A finding on one line: where, what was measured against what, and what to do."""
    where = f"{finding.where}: " if finding.where else ""
    measured = value(finding.measured) or finding.verdict
    bound = "" if finding.threshold is None else f" (threshold {value(finding.threshold)})"
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    return printable(f"{where}{measured}{bound}{remedy}")


def value(found: Measured) -> str:
    """A measured value as people write it."""
    if found is None:
        return ""
    return f"{found:.6g}" if isinstance(found, float) else str(found)


def outcome(report: CheckReport) -> str:
    """What came of a check, in a word or three."""
    return {PASSED: "passed", FAILED: "failed", NOTHING_CHECKED: "nothing was checked"}[report.exit_code]


def why_nothing(report: CheckReport) -> str:
    """Why nothing was checked."""
    told = (each.remedy for each in report.findings if each.remedy and each.remedy != UNSELECTED)
    return next(told, "ask for a gate")


def counted(report: CheckReport) -> str:
    """How many findings there are of each verdict; failures that block nothing are warnings."""
    warnings = sum(each.verdict == "fail" and not each.blocks for each in report.findings)
    counts = {**report.counts, "fail": report.counts["fail"] - warnings}
    told = [f"{count} {name}" for name, count in counts.items() if count]
    if warnings:
        told.append("1 warning" if warnings == 1 else f"{warnings} warnings")
    return ", ".join(told)


def place(path: str) -> str:
    """A path as CI wants it: relative to the working folder where it lies below, with slashes."""
    given = Path(path)
    if given.is_absolute() and given.is_relative_to(Path.cwd()):
        given = given.relative_to(Path.cwd())
    return given.as_posix()


def uri(path: str) -> str:
    """The same as SARIF has it."""
    return quote(place(path), safe="/", errors="surrogateescape")
