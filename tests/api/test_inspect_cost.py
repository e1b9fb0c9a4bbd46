"""What `inspect --certify` does no more than once: most of what a graph of many nodes costs is its copies."""

from __future__ import annotations

import pytest

from onnxmerge import inspect
from tests.graphs import build, copies_made, normal


def test_a_graph_is_copied_to_be_paired_up_traced_and_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    model = build(text, normal(w=(4, 6), v=(6, 3)))
    copies = copies_made(monkeypatch)
    certificate = inspect(model, certify=True).certificate
    assert certificate is not None
    assert certificate.passed
    assert len(copies) == 2
