"""How often a merge opens networks: to open one costs more than to run it, where it has many nodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import onnx_ir as ir
import pytest

import onnxmerge
from onnxmerge.model import session
from onnxmerge.model.runtime import Running, SessionOptions
from onnxmerge.model.runtimes import PROVIDERS
from onnxmerge.resources import PACKAGE

DIGITS = PACKAGE / "examples" / "digits"
PAIR = [DIGITS / "a.onnx", DIGITS / "b.onnx"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Networks that were opened: those that measure, and others."""
    found: Counter[str] = Counter()

    def counted(model: ir.Model, provider: str, options: SessionOptions) -> Running:
        measures = any("onnxmerge::" in str(node.name) for node in model.graph)
        found["measuring" if measures else "plain"] += 1
        return runtime.open(model, provider, options)

    runtime = PROVIDERS["cpu"]
    monkeypatch.setattr(session, "PROVIDERS", {"cpu": replace(runtime, open=counted)})
    return found


def test_plain_average_opens_one_network_for_all_proofs(opened: Counter[str]) -> None:
    onnxmerge.merge(PAIR, method="average")
    assert opened == {"plain": 1}


def test_parents_are_measured_once_for_all_that_is_searched(opened: Counter[str]) -> None:
    data = DIGITS / "calib.npz"
    onnxmerge.merge(PAIR, calibration=data, samples=64, method="mudsc-align", alpha=0.5, repair="repair")
    once = opened["measuring"]
    opened.clear()
    onnxmerge.merge(PAIR, calibration=data, samples=64, method="mudsc-align", alpha="auto", repair="repair")
    average = once - 1 - len(PAIR)  # beside it statistics of units, and moments of each parent
    assert opened["measuring"] == once + len(PAIR) + 11 * average  # parents on few samples, an average for each alpha
