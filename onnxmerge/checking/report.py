"""What a check found, for people and machines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxmerge.checking.finding import Finding, Layer, encodable
from onnxmerge.errors import UsageError
from onnxmerge.text import shown
from onnxmerge.version import __version__

PASSED, FAILED, NOTHING_CHECKED = 0, 3, 4
"""Exit codes."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All findings of one model, in the order in which gates were asked; ``layers`` are its initializers.

    ``sha256`` is that of the model as `inspect` and a merge's metadata have it (None where it could not be read).
    """

    model: str
    sha256: str | None
    findings: tuple[Finding, ...]
    layers: tuple[Layer, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether something was checked and nothing blocks the model."""
        return self.exit_code == PASSED

    @property
    def exit_code(self) -> int:
        """0: all that was checked passed; 3: something failed; 4: nothing was checked."""
        if any(finding.blocks for finding in self.findings):
            return FAILED
        return PASSED if any(finding.verdict != "skipped" for finding in self.findings) else NOTHING_CHECKED

    @property
    def failures(self) -> tuple[Finding, ...]:
        """What blocks the model."""
        return tuple(finding for finding in self.findings if finding.blocks)

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each verdict."""
        found = Counter(finding.verdict for finding in self.findings)
        return {verdict: found[verdict] for verdict in ("pass", "fail", "skipped", "unsupported")}

    def to_json(self) -> str:
        """``to_dict`` as text."""
        return self.to_format("json")

    def to_junit(self) -> str:
        """JUnit XML."""
        return self.to_format("junit")

    def to_markdown(self) -> str:
        """A table in Markdown."""
        return self.to_format("markdown")

    def to_sarif(self) -> dict[str, Any]:
        """A SARIF 2.1.0 log as plain data."""
        found: dict[str, Any] = json.loads(self.to_format("sarif"))
        return found

    def to_format(self, name: str) -> str:
        """The text in one of the formats: json, junit, sarif, github, markdown. Raises UsageError for another."""
        from onnxmerge.checking.formats import FORMATS  # formats are of reports

        if name not in FORMATS:
            raise UsageError(f"there is no format {shown(name)}; choose one of {', '.join(FORMATS)}")
        return FORMATS[name]([self])

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data: specs/check/report.schema.json describes it."""
        return {
            "version": __version__,
            "model": encodable(self.model),
            "sha256": self.sha256,
            "passed": self.passed,
            "exit_code": self.exit_code,
            "counts": self.counts,
            "findings": [finding.to_dict() for finding in self.findings],
            "layers": [layer.to_dict() for layer in self.layers],
        }


def exit_code_of(reports: Sequence[CheckReport]) -> int:
    """Of several: 3 where one failed, 4 where of one nothing was checked or there is none, else 0."""
    codes = {report.exit_code for report in reports} or {NOTHING_CHECKED}
    return FAILED if FAILED in codes else max(codes)
