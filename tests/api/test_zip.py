"""The zip methods through the Python API."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmerge import UsageError, merge, permute
from tests.graphs import build, execute, initializers, normal

MLP = "(float[n,6] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = MatMul(r, w2) }"
ZIPS = ["zipit", "weight-zip", "mudsc-zip"]


@pytest.mark.parametrize("method", ["zipit", *(pytest.param(name, marks=pytest.mark.slow) for name in ZIPS[1:])])
def test_a_model_zipped_with_its_permuted_copy_is_the_model(digits: Path, tmp_path: Path, method: str) -> None:
    model = digits / "a.onnx"
    copy = permute(model, seed=3).save(tmp_path / "copy.onnx")
    result = merge([model, copy], calibration=digits / "calib.npz", samples=300, method=method, repair="none")
    before, after = initializers(onnx.load(model)), initializers(onnx.load(result.save(tmp_path / "merged.onnx")))
    assert all(np.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert min(group.similarity_after or 1.0 for group in result.report.groups) > 0.999


def networks(*rows: list[int]) -> list[onnx.ModelProto]:
    """Hidden units that are one of five features each, the same features in all networks; outputs of their own."""
    features = normal(w=(5, 6), b=(5,), seed=1)
    return [
        build(MLP, {"w1": features["w"][row], "b1": features["b"][row], **normal(w2=(4, 3), seed=2 + index)})
        for index, row in enumerate(rows)
    ]


@pytest.mark.parametrize(
    "rows",
    [
        ([0, 1, 2, 3], [3, 2, 1, 0]),
        ([0, 1, 1, 2], [2, 2, 3, 1]),
        ([0, 0, 0, 1], [1, 2, 3, 3]),
        ([0, 1, 2, 2], [2, 1, 0, 0], [1, 3, 3, 0]),
    ],
)
def test_what_is_redundant_is_merged_without_loss(tmp_path: Path, rows: tuple[list[int], ...]) -> None:
    models = networks(*rows)
    rng = np.random.default_rng(0)
    calibration = {"x": rng.standard_normal((256, 6)).astype(np.float32)}
    merged = merge(models, calibration=calibration, method="zipit", repair="none", zip_a=1.0)
    feed = {"x": rng.standard_normal((9, 6)).astype(np.float32)}
    found = execute(onnx.load(merged.save(tmp_path / "merged.onnx")), feed)["y"]
    np.testing.assert_allclose(found, np.mean([execute(model, feed)["y"] for model in models], axis=0), atol=1e-5)


def test_a_budget_of_zero_keeps_the_units_of_a_model_apart(tmp_path: Path) -> None:
    models = networks([0, 0, 0, 1], [1, 2, 3, 3])
    calibration = {"x": np.random.default_rng(0).standard_normal((256, 6)).astype(np.float32)}
    files = [
        merge(models, calibration=calibration, method="zipit", repair="none", zip_b=b).save(tmp_path / f"{b}.onnx")
        for b in (0.0, 1.0)
    ]
    apart, together = (initializers(onnx.load(file))["w1"] for file in files)
    assert not np.allclose(apart, together)
    assert len(np.unique(np.round(together, 4), axis=0)) == 4


def test_repair_after_a_zip_aims_at_the_members(tmp_path: Path) -> None:
    models = networks([0, 1, 1, 2], [2, 2, 3, 1])
    calibration = {"x": np.random.default_rng(0).standard_normal((256, 6)).astype(np.float32)}
    plain, repaired = (
        merge(models, calibration=calibration, method="zipit", repair=repair, zip_a=1.0).save(
            tmp_path / f"{repair}.onnx"
        )
        for repair in ("none", "repair")
    )
    # Members are equal, so the merged units have their moments already.
    before, after = initializers(onnx.load(plain)), initializers(onnx.load(repaired))
    np.testing.assert_allclose(before["w1"], after["w1"], rtol=1e-3)
    np.testing.assert_allclose(before["b1"], after["b1"], atol=1e-3)


def test_a_and_b_are_checked() -> None:
    with pytest.raises(UsageError, match="--zip-a: expected a number from 0 to 1"):
        merge(networks([0, 1, 2, 3], [3, 2, 1, 0]), method="weight-zip", zip_a=1.5)
