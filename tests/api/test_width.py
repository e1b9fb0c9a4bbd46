"""Zips of any width: one is today's zip, that of all models together is every parent, in between it fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxmerge import UsageError, merge, permute
from onnxmerge.api import plan
from onnxmerge.matching.overrides import GroupRule
from onnxmerge.model.session import open_session
from tests.api.test_zip import ZIPS, networks
from tests.crossed import crossed
from tests.graphs import build, execute, initializers, normal
from tests.heads.networks import LAST, attention, cnn, data, mlp
from tests.heads.networks import MLP as TWO_LAYERS
from tests.resizing.test_resizing import _shown, residual

DEPTHWISE = """(float[n,3,8,8] x) => (float[n,4] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1) q = Relu(a) d = Conv<group=8, pads=[1,1,1,1]>(q, w2, b2) u = Relu(d)
    g = GlobalAveragePool(u) f = Flatten(g) y = Gemm<transB=1>(f, w3, b3)
}"""


def depthwise(seed: int = 0) -> onnx.ModelProto:
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,), "w3": (4, 8), "b3": (4,)}
    return build(DEPTHWISE, normal(seed=seed, scale=1.0, **shapes))


def outputs(found: Any, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return open_session(found.template.model, weights=found.weights).run({"x": x})


@pytest.mark.parametrize(("make", "method"), crossed([mlp, residual, depthwise, attention], ZIPS, every=3))
def test_width_one_is_the_zip_without_a_width(make: Any, method: str) -> None:
    models = [make(0), make(1)]
    # What a repair is chosen by does not ask for the method.
    repair = "auto" if method == "zipit" else "none"
    given: dict[str, Any] = {"method": method, "calibration": data(models[0], 256), "repair": repair}
    plain, same = merge(models, **given), merge(models, width=1.0, **given)
    assert set(plain.weights) == set(same.weights)
    for name, array in plain.weights.items():
        np.testing.assert_array_equal(array, same.weights[name], err_msg=name)
    assert plain.report.reconstruction == same.report.reconstruction


@pytest.mark.parametrize(
    ("make", "count", "repair"), crossed([mlp, residual, depthwise], [2, 3], ["auto", "repair"], every=2)
)
def test_as_wide_as_all_models_every_parent_comes_out(make: Any, count: int, repair: str) -> None:
    models = [make(seed) for seed in range(count)]
    x = data(models[0], 256)
    found = merge(models, method="mudsc-zip", calibration=x, heads="separate", width=float(count), repair=repair)
    for value, model in zip(outputs(found, x).values(), models, strict=True):
        np.testing.assert_allclose(value, execute(model, {"x": x})["y"], rtol=1e-4, atol=1e-5)
    assert found.report.repair == "none"


@pytest.mark.parametrize("make", [mlp, residual, depthwise])
def test_as_wide_as_all_models_joint_outputs_are_the_mean(make: Any) -> None:
    models = [make(0), make(1)]
    x = data(models[0])
    found = outputs(merge(models, method="weight-zip", width=2.0), x)["y"]
    want = np.mean([execute(model, {"x": x})["y"] for model in models], axis=0)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_own_units_keep_their_weights_and_meet_no_others() -> None:
    models = [mlp(0), mlp(1)]
    wide = merge(models, method="weight-zip", width=2.0).weights["w2"]
    one, other = (initializers(model)["w2"] for model in models)
    zero = np.zeros_like(one)
    np.testing.assert_array_equal(wide, np.block([[one, zero], [zero, other]]))


@settings(max_examples=5, deadline=None)
@given(
    sizes=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    count=st.integers(2, 3),
    share=st.floats(0.01, 1.0),
    method=st.sampled_from(ZIPS),
)
def test_the_merged_network_has_the_width_that_was_asked_for(
    sizes: tuple[int, int], count: int, share: float, method: str
) -> None:
    width = share * count
    models = [
        build(
            TWO_LAYERS.format(k=3, tail=LAST),
            normal(w1=(sizes[0], 6), b1=sizes[:1], w2=sizes, w3=(sizes[1], 3), seed=seed),
        )
        for seed in range(count)
    ]
    x = data(models[0], 64)
    result = merge(models, method=method, calibration=x, width=width, repair="none")
    h, g = (max(round(width * size), 1) for size in sizes)
    shapes = {name: array.shape for name, array in result.weights.items()}
    assert shapes == {"w1": (h, 6), "b1": (h,), "w2": (h, g), "w3": (g, 3)}
    assert [group.width for group in result.report.groups] == [h, g]
    assert result.report.footprints[-1].parameters == 6 * h + h + h * g + 3 * g
    assert outputs(result, x)["y"].shape == (64, 3)


@pytest.mark.parametrize(
    ("rows", "width"),
    [
        (([0, 1, 1, 0], [1, 0, 0, 1]), 0.5),
        (([0, 1, 1, 2], [2, 2, 0, 1]), 0.75),
        (([0, 1, 2, 3], [4, 3, 2, 1]), 1.25),
        (([0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 1]), 0.5),
    ],
)
def test_as_many_units_as_there_are_features_lose_nothing(rows: tuple[list[int], ...], width: float) -> None:
    models = networks(*rows)
    rng = np.random.default_rng(0)
    calibration = {"x": rng.standard_normal((256, 6)).astype(np.float32)}
    found = merge(models, calibration=calibration, method="zipit", repair="none", zip_a=1.0, width=width)
    x = rng.standard_normal((9, 6)).astype(np.float32)
    wanted = np.mean([execute(model, {"x": x})["y"] for model in models], axis=0)
    np.testing.assert_allclose(outputs(found, x)["y"], wanted, atol=1e-5)


@pytest.mark.parametrize("width", [0.5, 1.5])
def test_least_squares_solves_for_merged_units(width: float, tmp_path: Path) -> None:
    """A model of twice two equal units and a copy: two of the eight are enough, and any more are as good."""
    (model,) = networks([0, 1, 1, 0])
    copy = permute(model, seed=1).save(tmp_path / "copy.onnx")
    x = np.random.default_rng(0).standard_normal((512, 6)).astype(np.float32)
    settings: dict[str, Any] = {"method": "zipit", "zip_a": 1.0, "refine": "ls", "calibration": x}
    found = merge([model, copy], width=width, **settings)
    assert found.report.repair.startswith("least squares")
    assert found.weights["w1"].shape == (4 * width, 6)
    wanted = execute(model, {"x": x})["y"]
    assert np.abs(outputs(found, x)["y"] - wanted).max() < 1e-2 * np.abs(wanted).max()


@pytest.mark.slow
def test_more_units_reconstruct_better(digits: Path) -> None:
    files = [digits / "a.onnx", digits / "b.onnx"]
    settings: dict[str, Any] = {"calibration": digits / "calib.npz", "method": "zipit"}
    reports = [merge(files, width=width, **settings).report for width in (0.5, 1.0, 2.0)]
    errors = [np.mean([error for error in report.reconstruction or () if error is not None]) for report in reports]
    assert errors == sorted(errors, reverse=True)
    sizes = [report.footprints[-1] for report in reports]
    assert sizes[0].parameters < sizes[1].parameters < sizes[2].parameters
    assert sizes[0].flops < sizes[1].flops < sizes[2].flops


def test_groups_that_are_read_as_a_whole_keep_their_width() -> None:
    models = [attention(0), attention(1)]
    result = merge(models, method="weight-zip", width=0.5)
    (note,) = [note for note in result.report.notes if note.startswith("keep their width: ")]
    assert set(note.rpartition(": ")[2].split(", ")) == {group.id for group in result.report.groups}
    assert all(group.width == group.size for group in result.report.groups)


def test_channels_of_a_grouped_convolution_keep_their_width() -> None:
    models = [cnn(0), cnn(1)]
    x = data(models[0], 64)
    result = merge(models, method="zipit", calibration=x, width=0.5)
    widths = {group.id: (group.size, group.width) for group in result.report.groups}
    assert {size == width for size, width in widths.values()} == {True}
    assert outputs(result, x)["y"].shape == (64, 4)


def test_a_depthwise_convolution_has_as_many_groups_as_channels(tmp_path: Path) -> None:
    models = [depthwise(0), depthwise(1)]
    path = merge(models, method="weight-zip", width=0.75).save(tmp_path / "m.onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (group,) = [each.i for node in model.graph.node for each in node.attribute if each.name == "group" and each.i > 1]
    assert group == 6
    assert initializers(model)["w2"].shape == (6, 1, 3, 3)


def test_a_pinned_group_keeps_its_width() -> None:
    models = [mlp(0), mlp(1)]
    result = merge(models, method="weight-zip", width=0.5, groups=(GroupRule("w1", pin=True),))
    assert result.weights["w1"].shape == (5, 6)
    assert result.weights["w2"].shape == (5, 4)
    assert any(note.startswith("keep their width: ") for note in result.report.notes)


def test_a_planned_merge_tells_the_widths() -> None:
    found = plan([mlp(0), mlp(1)], method="weight-zip", width=1.5)
    assert [(group.size, group.width) for group in found.groups] == [(5, 8), (8, 12)]


def test_batchnorm_is_re_estimated_at_the_new_width(tmp_path: Path) -> None:
    models = [residual(0), residual(1)]
    x = data(models[0], 256)
    result = merge(models, method="zipit", width=1.5, calibration=x, repair="repair")
    model = onnx.load(result.save(tmp_path / "m.onnx"))
    before = execute(_shown(model, "a"), {"x": x})["a"]
    assert before.shape[1] == 12
    np.testing.assert_allclose(initializers(model)["m1"], before.mean(axis=(0, 2, 3)), atol=1e-3)
    np.testing.assert_allclose(initializers(model)["v1"], before.var(axis=(0, 2, 3)), rtol=1e-2)


@pytest.mark.parametrize(("width", "features"), [(0.75, 3), (1.5, 6)])
def test_merged_units_get_the_mean_statistics_of_their_members(width: float, features: int, tmp_path: Path) -> None:
    """Members are multiples of one feature, so their means and deviations are its own, times the mean multiple."""
    rng, x = np.random.default_rng(0), np.random.default_rng(1).standard_normal((512, 6)).astype(np.float32)
    base = normal(w=(features, 6), b=(features,), seed=1, scale=1.0)
    rows = np.array([[0, 1, 1, 2], [2, 2, 0, 1]]) if features == 3 else np.array([[0, 1, 1, 2], [3, 4, 5, 1]])
    factors = rng.uniform(0.5, 2, rows.shape).astype(np.float32)
    models = [
        build(
            "(float[n,6] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }",
            {
                "w1": base["w"][own] * factor[:, None],
                "b1": base["b"][own] * factor,
                **normal(w2=(4, 3), b2=(3,), seed=seed),
            },
        )
        for seed, (own, factor) in enumerate(zip(rows, factors, strict=True))
    ]
    given: dict[str, Any] = {"method": "zipit", "zip_a": 1.0, "calibration": x, "repair": "repair"}
    merged = onnx.load(merge(models, width=width, **given).save(tmp_path / "m.onnx"))
    hidden, weight = execute(_shown(merged, "h"), {"x": x})["h"], initializers(merged)["w1"]
    assert hidden.shape[1] == features
    values = x @ base["w"].T + base["b"]
    cosines = (weight @ base["w"].T) / np.linalg.norm(weight, axis=1)[:, None] / np.linalg.norm(base["w"], axis=1)
    order = cosines.argmax(axis=1)
    assert sorted(order) == list(range(features))
    for unit, feature in enumerate(order):
        factor = factors[rows == feature].mean()
        np.testing.assert_allclose(hidden[:, unit].std(), factor * values[:, feature].std(), rtol=1e-3)
        np.testing.assert_allclose(hidden[:, unit].mean(), factor * values[:, feature].mean(), atol=1e-3)


def test_alpha_is_searched_at_the_width_that_was_asked_for() -> None:
    models = [mlp(0), mlp(1)]
    result = merge(models, method="mudsc-zip", alpha="auto", width=0.5, calibration=data(models[0], 300))
    assert result.report.search is not None
    assert len(result.report.search.candidates) == 11
    assert result.weights["w1"].shape == (2, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "average", "width": 0.5}, r"--width 0\.5 is for methods zipit, weight-zip, mudsc-zip"),
        ({"method": "auto", "width": 0.5}, "method auto does not use it"),
        ({"method": "weight-zip", "width": 0.0}, r"--width 0: expected a number above 0, at most .* models, 2"),
        ({"method": "weight-zip", "width": 2.5}, r"--width 2\.5: expected"),
        ({"method": "weight-zip", "width": float("nan")}, "--width nan: expected"),
        ({"method": "weight-zip", "width": 0.5, "share": 0.5}, r"--share 0\.5 .* zips"),
    ],
)
def test_contradictions_are_usage_errors(options: dict[str, Any], message: str) -> None:
    models = [mlp(0), mlp(1)]
    with pytest.raises(UsageError, match=message):
        merge(models, calibration=data(models[0], 64), **options)
