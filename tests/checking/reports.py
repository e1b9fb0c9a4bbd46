"""Reports with everything in them that a format may trip over."""

from __future__ import annotations

from onnxmerge.checking.finding import Finding, Layer
from onnxmerge.checking.report import CheckReport

NASTY = "a|b<c>&\"'`\n::error::x\x1b[31m%,:\u202e]]>\udc80"

REPORT = CheckReport(
    f"models/{NASTY}.onnx",
    None,
    (
        Finding("integrity.graph", "error", "", "5 nodes", None, "pass", ""),
        Finding("integrity.finite-weights", "error", NASTY, NASTY, float("inf"), "fail", NASTY),
        Finding("interface.free-sizes", "warning", "s", "does not run with 8", "free", "fail", "declare it"),
        Finding("certificate.groups", "error", "", float("nan"), 1e-4, "unsupported", "leave it out"),
        Finding("cost.size", "error", "", 1.25, None, "skipped", "measured only"),
    ),
    (Layer("w", (3, 4), free=True, touched=None),),
)


EMPTY = CheckReport("a.onnx", None, (Finding("cost.size", "error", "", None, None, "skipped", "-"),))
