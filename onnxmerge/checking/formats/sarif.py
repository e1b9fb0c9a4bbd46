"""A check as SARIF 2.1.0 (OASIS), which code scanning reads: a rule for each gate, a result for what did not pass.

Results of kind "pass" and "notApplicable" are left out, although SARIF has them: GitHub's code scanning shows every
result as an alert, whatever its kind (microsoft/PSRule issue 955). The run's properties count them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxmerge.checking.finding import Finding
from onnxmerge.checking.formats.words import place, sentence, uri, why_nothing
from onnxmerge.checking.report import NOTHING_CHECKED, CheckReport, exit_code_of
from onnxmerge.text import printable
from onnxmerge.version import __version__

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
HELP = "docs/checking.md of onnxmerge says what this gate holds a model to."


def sarif_text(reports: Sequence[CheckReport]) -> str:
    """The log as text."""
    return json.dumps(sarif(reports), indent=1, allow_nan=False) + "\n"


def sarif(reports: Sequence[CheckReport]) -> dict[str, Any]:
    """The log: one run, with the findings of all models."""
    shown = [(report, finding) for report in reports for finding in _shown(report)]
    asked = (finding.id for report in reports for finding in report.findings)
    ids = list(dict.fromkeys([*asked, *(finding.id for _, finding in shown)]))
    code, summaries = exit_code_of(reports), _summaries()
    counts = [
        {"model": printable(place(report.model)), "exitCode": report.exit_code, **report.counts} for report in reports
    ]
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "onnxmerge",
                        "version": __version__,
                        "rules": [_rule(name, summaries.get(name, name)) for name in ids],
                    }
                },
                "invocations": [{"executionSuccessful": True, "exitCode": code}],
                "results": [_result(report, finding, ids.index(finding.id)) for report, finding in shown],
                "columnKind": "unicodeCodePoints",
                "properties": {"models": counts},
            }
        ],
    }


def _shown(report: CheckReport) -> Iterator[Finding]:
    """What did not pass; that nothing was checked is no pass either."""
    if report.exit_code == NOTHING_CHECKED:
        yield Finding("check.nothing", "error", "", None, None, "fail", f"nothing was checked: {why_nothing(report)}")
    yield from (finding for finding in report.findings if finding.verdict in ("fail", "unsupported"))


def _rule(name: str, summary: str) -> dict[str, Any]:
    """What GitHub asks of a rule: both descriptions, and a help."""
    told = {"text": summary}
    return {"id": name, "name": name, "shortDescription": told, "fullDescription": told, "help": {"text": HELP}}


def _result(report: CheckReport, finding: Finding, rule: int) -> dict[str, Any]:
    # A model has no lines, but GitHub asks for one.
    place = {"artifactLocation": {"uri": uri(report.model)}, "region": {"startLine": 1}}
    location: dict[str, Any] = {"physicalLocation": place}
    if finding.where:
        location["logicalLocations"] = [{"name": printable(finding.where)}]
    key = f"{finding.id}\n{finding.where}".encode("utf-8", "backslashreplace")
    return {
        "ruleId": finding.id,
        "ruleIndex": rule,
        "kind": "fail",
        "level": finding.severity,
        "message": {"text": sentence(finding)},
        "locations": [location],
        "partialFingerprints": {"onnxmerge/v1": hashlib.sha256(key).hexdigest()},
        "properties": {
            name: value
            for name, value in finding.to_dict().items()
            if name in ("measured", "threshold", "verdict", "remedy") and value is not None
        },
    }


def _summaries() -> Mapping[str, str]:
    from onnxmerge.checking.registry import GATES  # gates report themselves; the report of them comes last

    return {gate.id: gate.summary for gate in GATES}
