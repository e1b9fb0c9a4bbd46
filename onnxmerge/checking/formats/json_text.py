"""A check as JSON, as specs/check/report.schema.json describes it: the report of one model, or an object of several."""

from __future__ import annotations

import json
from collections.abc import Sequence

from onnxmerge.checking.report import CheckReport, exit_code_of


def json_text(reports: Sequence[CheckReport]) -> str:
    """The report of one model as it is; of several, ``{"passed": ..., "exit_code": ..., "reports": [...]}``."""
    if len(reports) == 1:
        return json.dumps(reports[0].to_dict(), indent=1, allow_nan=False) + "\n"
    code = exit_code_of(reports)
    found = {"passed": code == 0, "exit_code": code, "reports": [report.to_dict() for report in reports]}
    return json.dumps(found, indent=1, allow_nan=False) + "\n"
