"""A check as Markdown, for a job's summary or a comment."""

from __future__ import annotations

import re
from collections.abc import Sequence

from onnxmerge.checking.formats.words import counted, outcome, place, value
from onnxmerge.checking.report import CheckReport
from onnxmerge.text import clamped, printable

_MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|~&@])")
_LONGEST = 120
_SIGNS = {"pass": "✅", "fail": "❌", "unsupported": "❌", "skipped": "-"}


def markdown(reports: Sequence[CheckReport]) -> str:
    """A heading and a table for each model; what was skipped and measured nothing is counted."""
    return "\n".join(map(_one, reports))


def _one(report: CheckReport) -> str:
    lines = [
        f"### {_plain(place(report.model))}: {outcome(report)}",
        "",
        counted(report),
        "",
        "| | gate | where | measured | threshold | what to do |",
        "|---|---|---|---|---|---|",
    ]
    for finding in report.findings:
        if finding.verdict == "skipped" and finding.measured is None:
            continue
        sign = "⚠️" if finding.verdict == "fail" and finding.severity == "warning" else _SIGNS[finding.verdict]
        cells = (finding.where, value(finding.measured), value(finding.threshold), finding.remedy)
        lines.append(f"| {sign} | {finding.id} | {' | '.join(map(_plain, cells))} |")
    return "\n".join([*lines, ""])


def _plain(text: str) -> str:
    """Text in which nothing is markup, on one line."""
    shown = clamped(printable(text), _LONGEST).encode("utf-8", "backslashreplace").decode()
    return _MARKS.sub(r"\\\1", shown)
