"""What a merge says of how far it is from its parents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge import merge
from onnxmerge.pipeline import meanings
from tests.graphs import build, execute, normal

MLP = """(float[n,6] x) => (float[n,4] y, float[n,5] z) {
    h = Gemm(x, w1, b1) r = Relu(h) y = MatMul(r, w2) z = MatMul(r, w3) }"""


def model(seed: int) -> Any:
    return build(MLP, normal(w1=(6, 8), b1=(8,), w2=(8, 4), w3=(8, 5), seed=seed))


@pytest.mark.parametrize("kept", [1 << 26, 0], ids=["answers kept", "parents run again"])
def test_relative_errors_are_those_of_the_outputs(kept: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meanings, "KEPT_BYTES", kept)
    rng = np.random.default_rng(3)
    data = rng.standard_normal((96, 6)).astype(np.float32)
    models = [model(1), model(2)]
    result = merge(models, calibration={"x": data}, method="act-align", refine="ls")
    result.save(tmp_path / "m.onnx")
    assert not result.report.held_out
    runs = [execute(each, {"x": data}) for each in (onnx.load(tmp_path / "m.onnx"), *models)]
    for found, parent in zip(result.report.reconstruction or (), runs[1:], strict=True):
        wanted = [np.linalg.norm(runs[0][name] - parent[name]) / np.linalg.norm(parent[name]) for name in ("y", "z")]
        assert found == pytest.approx(np.mean(wanted), rel=1e-4)
