"""How often a merge opens networks: to open one costs more than to run it, where it has many nodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

import onnxmerge
from onnxmerge.model import session
from onnxmerge.model.runtime import Running, SessionOptions
from onnxmerge.model.runtimes import PROVIDERS
from tests.graphs import build, normal

MLP = "(float[n,6] x) => (float[n,3] y) { h = Gemm(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }"
PAIR = [build(MLP, normal(w1=(6, 8), b1=(8,), w2=(8, 3), b2=(3,), seed=seed)) for seed in range(2)]
DATA = {"x": np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)}


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
    onnxmerge.merge(PAIR, calibration=DATA, method="mudsc-align", alpha=0.5, repair="repair")
    once = opened["measuring"]
    opened.clear()
    onnxmerge.merge(PAIR, calibration=DATA, method="mudsc-align", alpha="auto", repair="repair")
    average = once - 1  # beside it what is measured in all parents together
    assert opened["measuring"] == once + len(PAIR) + 11 * average  # parents on few samples, an average for each alpha
