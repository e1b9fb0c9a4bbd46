"""``weights``: how much each model counts, in everything that a merge takes the mean of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge import MergeOptions, MergeResult, UsageError, merge
from tests.graphs import build, execute, initializers, normal

MLP = "(float[n,6] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }"
X = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)


def network(seed: int) -> onnx.ModelProto:
    return build(MLP, normal(w1=(8, 6), b1=(8,), w2=(8, 3), b2=(3,), seed=seed))


def output(model: onnx.ModelProto) -> NDArray[np.float32]:
    return execute(model, {"x": X})["y"]


def saved(result: MergeResult, folder: Path) -> onnx.ModelProto:
    return onnx.load(result.save(folder / "merged.onnx"))


def test_weights_are_divided_by_their_sum_and_recorded(tmp_path: Path) -> None:
    models = [network(0), network(1)]
    result = merge(models, method="average", weights=(1.4, 0.6))
    merged = saved(result, tmp_path)
    first, second = map(initializers, models)
    for name, array in initializers(merged).items():
        np.testing.assert_allclose(array, 0.7 * first[name] + 0.3 * second[name], atol=1e-6)
    assert result.report.weights == pytest.approx((0.7, 0.3))
    metadata = {entry.key: entry.value for entry in merged.metadata_props}
    assert [float(part) for part in metadata["onnxmerge.weights"].split()] == pytest.approx([0.7, 0.3])


@pytest.mark.parametrize("method", ["rebasin", "act-align", "mudsc-align", "mudsc-zip"])
def test_equal_weights_are_the_default(method: str) -> None:
    models = [network(0), network(1)]
    default, equal = (merge(models, calibration={"x": X}, method=method, weights=each) for each in (None, (3.0, 3.0)))
    for name, array in default.weights.items():
        np.testing.assert_array_equal(array, equal.weights[name])


@pytest.mark.parametrize(("method", "refine"), [("act-align", "none"), ("act-align", "ls"), ("mudsc-zip", "none")])
def test_one_model_can_count_for_nearly_everything(tmp_path: Path, method: str, refine: str) -> None:
    models = [network(0), network(1)]
    repair = "auto" if refine == "ls" else "repair"
    options = MergeOptions(method=method, refine=refine, repair=repair, weights=(1e-7, 1.0))
    options = replace(options, own=(("zip_b", 0.0),)) if method == "mudsc-zip" else options
    options = replace(options, outputs="features") if refine == "ls" else options
    result = merge(models, calibration={"x": X}, options=options)
    np.testing.assert_allclose(output(saved(result, tmp_path)), output(models[1]), rtol=1e-2, atol=2e-2)


def test_a_zip_weighs_the_members_of_its_units(tmp_path: Path) -> None:
    features = normal(w=(5, 6), b=(5,), seed=1)
    models = [
        build(MLP, {"w1": features["w"][row], "b1": features["b"][row], **normal(w2=(4, 3), b2=(3,), seed=seed)})
        for seed, row in enumerate(([0, 1, 1, 2], [2, 2, 3, 1]))
    ]
    result = merge(models, calibration={"x": X}, method="zipit", repair="none", zip_a=1.0, weights=(0.8, 0.2))
    expected = 0.8 * output(models[0]) + 0.2 * output(models[1])
    np.testing.assert_allclose(output(saved(result, tmp_path)), expected, atol=1e-5)


@pytest.mark.parametrize("method", ["act-align", "zipit"])
def test_repair_aims_at_the_weighted_moments(tmp_path: Path, method: str) -> None:
    models = [network(0), network(1)]
    result = merge(models, calibration={"x": X}, method=method, repair="repair", weights=(0.9, 0.1))
    found, one, other = (output(each) for each in (saved(result, tmp_path), *models))
    for moment in (np.mean, np.std):
        aim = 0.9 * moment(one, axis=0) + 0.1 * moment(other, axis=0)
        np.testing.assert_allclose(moment(found, axis=0), aim, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((0.5, 0.3, 0.2), "a number for each of the 2 models, found 3"),
        ((1.0, -1.0), "positive numbers"),
        ((1.0, 0.0), "leave out a model"),
        ((1.0, float("nan")), "positive numbers"),
        ((1.0, float("inf")), "positive numbers"),
    ],
)
def test_senseless_weights_are_refused(weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        merge([network(0), network(1)], method="average", weights=weights)
