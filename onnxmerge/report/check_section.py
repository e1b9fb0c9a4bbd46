"""What ``check`` says, as a part of a page: what passed, what failed and what to do, and what was not asked and why."""

from __future__ import annotations

from onnxmerge.checking.finding import Finding
from onnxmerge.checking.formats.words import counted, outcome
from onnxmerge.checking.report import CheckReport
from onnxmerge.report.check import told, verdict, written
from onnxmerge.report.html import dotted, folded, paragraph, table
from onnxmerge.report.section import Section


def check_card(found: CheckReport) -> tuple[str, str, str]:
    """The verdict among what matters most."""
    return "Verdict of check", outcome(found), counted(found)


def check_section(found: CheckReport, hint: str = "") -> Section:
    """Every gate; ``hint`` is what is to be said of those that were asked."""
    asked = [each for each in found.findings if each.verdict != "skipped" or each.measured is not None]
    rows = [(dotted(each.id), told(each), _found(each)) for each in asked]
    others = dict.fromkeys((dotted(each.id), each.remedy) for each in found.findings if each not in asked)
    body = paragraph(verdict(found)) + paragraph(hint, "hint")
    if rows:
        body += table(("gate", "verdict", "what was found"), rows, "Findings of check", bars=(0,), long=(2,))
    if others:
        skipped = table(("gate", "why it was skipped"), tuple(others), "Gates that were skipped", bars=(0,))
        body += folded("Gates that were skipped, and why", skipped)
    return Section("check", "What check says", body)


def _found(finding: Finding) -> str:
    where = f"{finding.where}: " if finding.where else ""
    bound = f" (held to {written(finding.threshold)})" if finding.threshold is not None else ""
    remedy = f"; {finding.remedy}" if finding.verdict in ("fail", "unsupported") and finding.remedy else ""
    return f"{where}{written(finding.measured)}{bound}{remedy}"
