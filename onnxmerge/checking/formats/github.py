"""Annotations of GitHub Actions: workflow commands on standard output, one a line.

As docs.github.com, Workflow commands for GitHub Actions, says: ``::error file=F,title=T::MESSAGE``, where a message has
%, CR and LF as %25, %0D and %0A, and a property : and , as %3A and %2C too.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxmerge.checking.formats.words import counted, outcome, place, sentence, why_nothing
from onnxmerge.checking.report import NOTHING_CHECKED, CheckReport
from onnxmerge.text import printable


def github(reports: Sequence[CheckReport]) -> str:
    """An error or a warning for each failure, and a notice for each model."""
    lines = []
    for report in reports:
        file = _property(printable(place(report.model)))
        for finding in report.findings:
            if finding.verdict in ("fail", "unsupported"):
                title = _property(f"onnxmerge {finding.id}")
                lines.append(f"::{finding.severity} file={file},title={title}::{_message(sentence(finding))}")
        nothing = report.exit_code == NOTHING_CHECKED
        kind, told = ("error", why_nothing(report)) if nothing else ("notice", counted(report))  # its failures say it
        lines.append(f"::{kind} file={file},title=onnxmerge check::{outcome(report)}: {_message(printable(told))}")
    return "".join(f"{line}\n" for line in lines)


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
