"""How often models run: data passes through each of them once, whatever gates are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import onnxmerge
from onnxmerge.model.session import Session
from tests.checking.broken import CONVOLUTION, graph, mlp, weights
from tests.graphs import execute, normal

SAMPLES = 64


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Samples that went through any session, and how often one ran."""
    seen: Counter[str] = Counter()

    def counted(name: str) -> None:
        real = getattr(Session, name)

        def run(self: Session, feeds: dict[str, Any], *more: Any) -> Any:
            seen["samples"] += len(feeds[next(iter(self.inputs))])
            seen["runs"] += 1
            return real(self, feeds, *more)

        monkeypatch.setattr(Session, name, run)

    counted("run")
    counted("values")
    yield seen
    assert seen["runs"]


def test_with_labels_and_parents(rows: Counter[str]) -> None:
    x = np.random.default_rng(0).standard_normal((SAMPLES, 4)).astype(np.float32)
    parents = [mlp(), mlp(**weights(1))]
    labels = execute(parents[0], {"x": x})["y"].argmax(axis=1)
    rows.clear()
    report = onnxmerge.check(
        mlp(), against=parents, data=x, labels=labels, max_drop=100, max_error=100, min_agreement=0, certify=True
    )
    assert report.passed
    asked = {finding.id for finding in report.findings if finding.measured is not None}
    assert {"accuracy.drop", "accuracy.ensemble-drop", "agreement.top1", "agreement.first-difference"} <= asked
    assert rows["samples"] <= 1.5 * SAMPLES * 3


def test_without_parents(rows: Counter[str]) -> None:
    x = np.random.default_rng(0).standard_normal((SAMPLES, 3, 8, 8)).astype(np.float32)
    model = graph(CONVOLUTION, **normal(k=(4, 3, 3, 3), v=(2, 4)))()
    assert onnxmerge.check(model, data=x, certify=True).passed
    assert rows["samples"] <= 1.5 * SAMPLES


def test_labels_run_nothing(rows: Counter[str]) -> None:
    x = np.random.default_rng(0).standard_normal((SAMPLES, 4)).astype(np.float32)
    onnxmerge.check(mlp(), against=[mlp()], data=x)
    without = Counter(rows)
    onnxmerge.check(mlp(), against=[mlp()], data=x, labels=np.zeros(SAMPLES, np.int64))
    assert rows["runs"] == 2 * without["runs"]


def test_a_batch_that_all_data_fill_runs_once_for_sample_and_data(rows: Counter[str]) -> None:
    x = np.random.default_rng(0).standard_normal((SAMPLES, 4)).astype(np.float32)
    text = "(float[64,4] x) => (float[64,4] y) { y = Relu(x) }"
    assert onnxmerge.check(graph(text)(), data=x).passed
    # Once for the data, once to be the same again, once in another order.
    assert rows["samples"] == 3 * SAMPLES
