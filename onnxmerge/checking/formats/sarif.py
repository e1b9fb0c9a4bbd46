"""A check as SARIF 2.1.0 (OASIS), which code scanning reads: a rule for each gate, a result for each finding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from onnxmerge.checking.finding import Finding
from onnxmerge.checking.formats.words import sentence, uri
from onnxmerge.checking.report import CheckReport
from onnxmerge.text import printable
from onnxmerge.version import __version__

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_KINDS = {"pass": "pass", "skipped": "notApplicable", "fail": "fail", "unsupported": "fail"}


def sarif_text(reports: Sequence[CheckReport]) -> str:
    """The log as text."""
    return json.dumps(sarif(reports), indent=1, allow_nan=False) + "\n"


def sarif(reports: Sequence[CheckReport]) -> dict[str, Any]:
    """The log: one run, with the findings of all models."""
    ids = list(dict.fromkeys(finding.id for report in reports for finding in report.findings))
    summaries = _summaries()
    rules = [{"id": name, "name": name, "shortDescription": {"text": summaries.get(name, name)}} for name in ids]
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "onnxmerge", "version": __version__, "rules": rules}},
                "results": [
                    _result(report, finding, ids.index(finding.id)) for report in reports for finding in report.findings
                ],
                "columnKind": "unicodeCodePoints",
            }
        ],
    }


def _result(report: CheckReport, finding: Finding, rule: int) -> dict[str, Any]:
    kind = _KINDS[finding.verdict]
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": uri(report.model)}}}
    if finding.where:
        location["logicalLocations"] = [{"name": printable(finding.where)}]
    key = f"{finding.id}\n{finding.where}".encode("utf-8", "backslashreplace")
    return {
        "ruleId": finding.id,
        "ruleIndex": rule,
        "kind": kind,
        "level": finding.severity if kind == "fail" else "none",
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
