"""Findings in words, for all formats alike."""

from __future__ import annotations

from onnxmerge.checking.finding import Finding, Measured
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


def uri(path: str) -> str:
    """A path as CI wants it: relative to the working folder where it lies below, with slashes."""
    from pathlib import Path
    from urllib.parse import quote

    given = Path(path)
    if given.is_absolute() and given.is_relative_to(Path.cwd()):
        given = given.relative_to(Path.cwd())
    return quote(given.as_posix(), safe="/", errors="surrogateescape")
