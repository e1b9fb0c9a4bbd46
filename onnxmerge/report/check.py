"""A check as a table on the terminal."""

from __future__ import annotations

import os

from rich.table import Table

from onnxmerge.checking.finding import Finding, Measured
from onnxmerge.checking.report import CheckReport
from onnxmerge.report.terminal import terminal
from onnxmerge.text import clamped

_LONGEST = 60
"""Characters of a cell."""


def print_check(report: CheckReport, *, every: bool = False) -> None:
    """One row for each finding, and the verdict; skipped ones are counted.

    They are listed with ``every``, or where they measured something.
    """
    console = terminal()
    table = Table(title=os.path.basename(report.model), title_justify="left", box=None)  # noqa: PTH119  (or a name)
    for title in ("verdict", "gate", "where", "measured", "threshold"):
        table.add_column(title)
    shown = [each for each in report.findings if every or each.verdict != "skipped" or each.measured is not None]
    for finding in shown:
        measured, threshold = written(finding.measured), written(finding.threshold)
        table.add_row(told(finding), finding.id, clamped(finding.where, _LONGEST), measured, threshold)
    console.print(table)
    for finding in shown:
        if (finding.verdict in ("fail", "unsupported") or every) and finding.remedy:
            console.say(f"{finding.id}  {finding.remedy}")
    console.say(verdict(report))


def verdict(report: CheckReport) -> str:
    """The outcome in one line."""
    counts = report.counts
    parts = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    outcome = {0: "passed", 3: "FAILED", 4: "nothing was checked"}[report.exit_code]
    return f"{outcome}: {parts}"


def told(finding: Finding) -> str:
    """A verdict as a reader meets it."""
    if finding.verdict in ("fail", "unsupported"):
        return "warning" if finding.severity == "warning" else finding.verdict.upper()
    return finding.verdict


def written(value: Measured) -> str:
    """A measured value or threshold, short."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else clamped(str(value), _LONGEST)
