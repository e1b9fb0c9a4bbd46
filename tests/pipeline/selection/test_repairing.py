"""``repair="auto"``: all repairs are tried on held-out data, where there is enough of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from onnxmerge.activations.moments import Moments, by_batch
from onnxmerge.api import merge
from onnxmerge.merging.repair.choice import label, repair_steps
from onnxmerge.pipeline import matching, restoring
from onnxmerge.pipeline.prepare import load, type_models
from tests.graphs import build, execute, normal

GRAPH = "(float[n,6] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }"
WEIGHTS = normal(w1=(6, 32), w2=(32, 3))
X = np.random.default_rng(0).normal(size=(1000, 6)).astype(np.float32)


def network(seed: int, shift: float = 0.0) -> onnx.ModelProto:
    weights = normal(w1=(32, 6), b1=(32,), w2=(32, 3), b2=(3,), seed=seed)
    return build(GRAPH, {**weights, "b2": weights["b2"] + np.float32(shift)})


def test_what_was_tried_is_told_and_the_best_is_done() -> None:
    result = merge([network(1), network(2)], calibration={"x": X}, method="act-align")
    tried = {candidate.repair: candidate.reconstruction for candidate in result.report.repairs}
    assert set(tried) == {
        *(f"{mode} (output layers)" for mode in ("repair", "rescale", "bias")),
        "repair (all layers)",
        "none",
    }
    assert result.report.repair == max(tried, key=lambda name: tried[name])
    explicit = merge([network(1), network(2)], calibration={"x": X}, method="act-align", repair="none").report
    assert explicit.repairs == ()
    assert explicit.repair == "none"


def test_the_rule_comes_first_so_that_it_is_kept_among_equals() -> None:
    prepared = type_models(load([network(1), network(2)]), None, None)
    steps = repair_steps(prepared.models.template.graph, prepared.typing)
    assert steps[0] is not None
    assert steps[0].label == "repair (all layers)"
    assert steps[-1] is None
    assert len(set(steps)) == len(steps) == 7


def test_what_does_the_same_as_another_repair_is_not_tried() -> None:
    plain = build("(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }", WEIGHTS)
    prepared = type_models(load([plain, plain]), None, None)
    found = repair_steps(prepared.models.template.graph, prepared.typing)
    assert [label(step) for step in found] == ["repair (output layers)", "repair (all layers)", "none"]


@pytest.mark.parametrize(("samples", "again"), [(150, False), (400, False), (1000, True)])
def test_parents_are_measured_for_repairs_while_they_are_compared(
    monkeypatch: pytest.MonkeyPatch, samples: int, *, again: bool
) -> None:
    """Where repairs take the very samples that are compared: of more, they take some of their own."""
    runs = []

    def counted(*given: Any, **options: Any) -> Iterator[dict[str, Moments]]:
        runs.append(given)
        return by_batch(*given, **options)

    def merged() -> dict[str, np.ndarray]:
        result = merge(models, calibration={"x": X[:samples]}, method="act-align", samples=samples)
        return {name: np.asarray(result.weights[name]) for name in result.weights}

    models = [network(1), network(2)]
    monkeypatch.setattr(restoring, "by_batch", counted)
    found = merged()
    assert bool(runs) == again
    monkeypatch.setattr(matching, "PROBED", 0)
    expected = merged()
    assert runs
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)


def test_with_little_data_the_rule_decides() -> None:
    report = merge([network(1), network(2)], calibration={"x": X[:150]}, method="act-align").report
    assert report.repairs == ()
    assert report.repair == "repair (all layers)"


def near(model: onnx.ModelProto, share: float) -> onnx.ModelProto:
    """A copy with some noise in its weights."""
    found, rng = onnx.ModelProto(), np.random.default_rng(0)
    found.CopyFrom(model)
    for tensor in found.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        noisy = (array + share * rng.standard_normal(array.shape)).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(noisy, tensor.name))
    return found


def test_no_repair_moves_what_needs_none() -> None:
    """Parents and merge are measured batch by batch alike, so it is no matter that batches are not like all data."""
    strange = X.copy()
    strange[:300] = 50.0 * np.abs(strange[:300])
    models = [network(1), near(network(1), 1e-3)]
    result = merge(models, calibration={"x": strange}, method="average", batch_size=50)
    tried = {candidate.repair: candidate.reconstruction for candidate in result.report.repairs}
    assert len(tried) == 7
    assert min(tried.values()) > 0.9999


def test_bias_alone_can_be_asked_for(tmp_path: Path) -> None:
    result = merge([network(1), network(1, shift=2.0)], calibration={"x": X}, method="average", repair="bias")
    assert result.report.repair == "bias (all layers)"
    merged = onnx.load(result.save(tmp_path / "m.onnx"))
    found, first = execute(merged, {"x": X})["y"], execute(network(1), {"x": X})["y"]
    np.testing.assert_allclose(found.mean(axis=0), first.mean(axis=0) + 1.0, atol=0.05)
    np.testing.assert_allclose(found.std(axis=0), first.std(axis=0), rtol=1e-3)


def test_least_squares_is_tried_where_everything_is_searched() -> None:
    found = merge([network(1), network(2)], calibration={"x": X}, method="auto").report
    labels = [candidate.repair for candidate in found.repairs]
    assert labels[-1] == "least squares"
    best = max(found.repairs, key=lambda candidate: candidate.reconstruction)
    assert found.repair == best.repair == labels[-1]
    asked = merge([network(1), network(2)], calibration={"x": X}, method="auto", refine="none").report
    assert all("least squares" not in candidate.repair for candidate in asked.repairs)


def test_least_squares_is_not_tried_with_a_method_or_a_repair_that_was_asked_for() -> None:
    fixed = merge([network(1), network(2)], calibration={"x": X}, method="act-align").report
    assert all("least squares" not in candidate.repair for candidate in fixed.repairs)
    assert merge([network(1), network(2)], calibration={"x": X}, method="auto", repair="bias").report.repairs == ()
