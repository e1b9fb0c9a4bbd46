"""Models that are rotated are repaired by what their rotated units do."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge import merge
from tests.graphs import build, normal

GRAPH = "(float[n,6] x) => (float[n,3] y) { h = Gemm(x, w, b) g = Gemm(h, u, c) r = Relu(g) y = Gemm(r, v, d) }"
WEIGHTS = normal(w=(6, 8), b=(8,), u=(8, 10), c=(10,), v=(10, 3), d=(3,), seed=1)
TURN = np.linalg.qr(np.random.default_rng(2).standard_normal((8, 8)))[0].astype(np.float32)
X = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)


@pytest.mark.parametrize("repair", ["auto", "repair"])
def test_a_model_merged_with_a_rotated_copy_gives_it_back(repair: str) -> None:
    turned = {**WEIGHTS, "w": WEIGHTS["w"] @ TURN, "b": WEIGHTS["b"] @ TURN, "u": TURN.T @ WEIGHTS["u"]}
    models = [build(GRAPH, WEIGHTS), build(GRAPH, turned)]
    found = merge(models, calibration={"x": X}, method="act-align", rotate=True, repair=repair)
    assert found.report.rotated
    assert found.report.reconstruction is not None
    assert max(error for error in found.report.reconstruction if error is not None) < 1e-4
