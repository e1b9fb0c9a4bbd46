"""What a check found, for people and machines."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from onnxmerge.checking.finding import Finding, Layer
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

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data: specs/check.schema.json describes it."""
        return {
            "version": __version__,
            "model": self.model,
            "sha256": self.sha256,
            "passed": self.passed,
            "exit_code": self.exit_code,
            "counts": self.counts,
            "findings": [finding.to_dict() for finding in self.findings],
            "layers": [asdict(layer) for layer in self.layers],
        }
