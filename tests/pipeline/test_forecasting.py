"""What a merge is expected to come to: bounds that hold whatever was fitted, and what is said where nothing can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmerge
from onnxmerge import InputError, UsageError, permute
from onnxmerge.pipeline.forecasting import LAW, Forecast
from tests.graphs import build, normal

MLP = "(float[n,6] x) => (float[n,3] y) { h = Gemm(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }"
CALIB = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)


def mlp(seed: int, hidden: int = 8) -> onnx.ModelProto:
    return build(MLP, normal(w1=(6, hidden), b1=(hidden,), w2=(hidden, 3), b2=(3,), seed=seed))


def forecast(*models: Any, calibration: Any = CALIB, **how: Any) -> Forecast:
    found = onnxmerge.plan(models, calibration=calibration, forecast=True, **how).forecast
    assert found is not None
    return found


def test_a_permuted_copy_loses_nothing(tmp_path: Path) -> None:
    permute(mlp(0), seed=3).save(tmp_path / "p.onnx")
    found = forecast(mlp(0), onnx.load(tmp_path / "p.onnx"), outputs="logits")
    assert [group.kept for group in found.groups] == pytest.approx([1.0])
    assert found.arriving == pytest.approx(1.0)
    assert found.agreement == pytest.approx(found.ensemble, abs=1e-6)


def test_models_that_differ_lose_and_a_wider_merge_loses_less(digits: Path) -> None:
    models = [digits / "a.onnx", digits / "b.onnx"]
    how = {"tasks": digits / "task.json", "calibration": digits / "calib.npz", "samples": 300}
    by_width = [forecast(*models, width=width, **how) for width in (0.5, None, 2.0)]
    narrow, same, wide = by_width
    assert narrow.arriving < same.arriving < wide.arriving == pytest.approx(1.0)
    told = [each.agreement for each in by_width if each.agreement is not None]
    assert same.chance is not None
    assert same.chance < told[0] < told[1] < told[2] == pytest.approx(wide.ensemble, abs=1e-6)
    assert [(group.id, group.size, group.width, group.stream) for group in same.groups] == [
        ("p0", 24, 24, True),
        ("p1", 24, 24, False),
        ("p2", 48, 48, False),
        ("p3", 48, 48, False),
    ]
    assert all(group.needed > 0.99 * group.width for group in same.groups if group.kept < 0.99)


def test_it_is_the_same_each_time() -> None:
    assert forecast(mlp(0), mlp(1), outputs="logits") == forecast(mlp(0), mlp(1), outputs="logits")


def test_regressions_have_no_agreement_to_forecast() -> None:
    found = forecast(mlp(0), mlp(1), outputs="regression")
    assert (found.agreement, found.ensemble, found.chance) == (None, None, None)
    assert found.groups
    assert found.notes == ("no agreement is forecast: the models have no output that they answer together",)


def test_of_more_models_than_it_was_fitted_on_it_says_so() -> None:
    found = forecast(mlp(0), mlp(1), mlp(2), outputs="logits")
    assert found.notes == ("the law was fitted on merges of 2 models, so of more it knows less",)
    assert found.groups[0].kept < forecast(mlp(0), mlp(1), outputs="logits").groups[0].kept


def test_too_few_rows_are_told() -> None:
    found = forecast(mlp(0, hidden=200), mlp(1, hidden=200), outputs="logits")
    (note,) = found.notes
    assert note.startswith("fewer rows of activations than units")


def test_a_forecast_from_few_samples_says_so() -> None:
    assert forecast(mlp(0), mlp(1), outputs="logits", calibration=CALIB[:40]).notes == (
        "calibration samples are few, and tell little of how answers agree: give 128 or more",
    )


def test_without_a_group_nothing_is_forecast() -> None:
    graph = "(float[n,6] x) => (float[n,3] y) { y = Gemm(x, w, b) }"
    linear = [build(graph, normal(w=(6, 3), b=(3,), seed=seed)) for seed in (0, 1)]
    found = forecast(*linear, outputs="logits")
    assert found.notes == ("no agreement is forecast: there is no group in which units of the models can be compared",)


def test_wide_groups_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmerge.pipeline.forecasting.WIDEST", 15)
    found = forecast(mlp(0), mlp(1), outputs="logits")
    assert not found.groups
    assert found.notes[0] == "too wide to be taken apart in seconds, and taken to fit: p0 (8 units)"


def test_what_it_cannot_do_is_refused(digits: Path) -> None:
    with pytest.raises(UsageError, match=r"give calibration data \(--calib\)"):
        onnxmerge.plan([mlp(0), mlp(1)], forecast=True)
    with pytest.raises(UsageError, match="are for a forecast"):
        onnxmerge.plan([mlp(0), mlp(1)], tasks=digits / "task.json")
    with pytest.raises(InputError, match="NaN"):
        forecast(mlp(0), mlp(1), calibration=np.full((300, 6), np.nan, np.float32))


def test_the_law_was_fitted() -> None:
    assert LAW.merges >= 10
    assert 0 < LAW.error <= LAW.worst <= 0.06
    assert LAW.loss > 0


def test_a_notebook_shows_it() -> None:
    html = onnxmerge.plan([mlp(0), mlp(1)], calibration=CALIB, outputs="logits", forecast=True)._repr_html_()
    assert "<th>both kept</th>" in html
    assert "agreement with the ensemble" in html
    assert "<td>p0</td><td>8</td><td>8</td>" in onnxmerge.plan([mlp(0), mlp(1)])._repr_html_()
