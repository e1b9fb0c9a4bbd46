"""What one gate found: measured against a threshold, with a verdict and what to do about it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["pass", "fail", "skipped", "unsupported"]
"""Skipped: nobody asked, or it does not apply, or what it builds on failed. Unsupported: asked for, and cannot be told
of this model, which is no better than a failure."""

Severity = Literal["error", "warning"]
"""Whether a failure blocks the model."""

Measured = str | float | int | bool | None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    ``id`` is "family.gate", ``where`` the tensor, node, task, parent or target that it is about (empty: all of it),
    ``measured`` what was found and ``threshold`` what it was held to (None: neither was there). ``remedy`` says why
    something was not evaluated, or what to do. ``higher_is_better`` tells a baseline which way is worse (None: none).
    """

    id: str
    severity: Severity
    where: str
    measured: Measured
    threshold: Measured
    verdict: Verdict
    remedy: str
    higher_is_better: bool | None = None

    @property
    def blocks(self) -> bool:
        """Whether the model must not ship because of it."""
        return self.verdict in ("fail", "unsupported") and self.severity == "error"

    @property
    def family(self) -> str:
        return self.id.partition(".")[0]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON: numbers that are not finite as text, and no text that is not UTF-8."""
        return {name: _plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Layer:
    """An initializer.

    ``free`` says whether the certificate moved it (None: there is none), ``touched`` whether it
    differs from that of every parent (None: there is no parent of this structure).
    """

    name: str
    shape: tuple[int, ...]
    free: bool | None
    touched: bool | None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        found = {"name": encodable(self.name), "shape": list(self.shape)}
        return {**found, "free": self.free, "touched": self.touched}


def _plain(value: Measured) -> Measured:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return encodable(value) if isinstance(value, str) else value


def encodable(text: str) -> str:
    """The text with bytes that were not UTF-8 (in a file's name) as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def nothing(why: str) -> Finding:
    """That no gate was asked."""
    return Finding("check.nothing", "error", "", None, None, "skipped", why)


def compared(
    gate: str,
    measured: float,
    threshold: float | None,
    *,
    higher_is_better: bool,
    where: str = "",
    remedy: str = "",
    option: str = "",
) -> Finding:
    """A number held to a threshold; without one it is said, but is no gate (``option`` makes it one)."""
    if threshold is None:
        told = f"measured only: {option} makes it a gate" if option else "measured only"
        return Finding(gate, "error", where, measured, None, "skipped", told, higher_is_better)
    good = measured >= threshold if higher_is_better else measured <= threshold  # False for nan
    verdict: Verdict = "pass" if good else "fail"
    return Finding(gate, "error", where, measured, threshold, verdict, "" if good else remedy, higher_is_better)
