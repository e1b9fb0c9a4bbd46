"""Methods for models of one pretraining, through the Python API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge import StructureError, UsageError, merge, permute
from onnxmerge.merging.task_vectors import TASK_VECTORS
from onnxmerge.pipeline.options import merge_options
from tests.graphs import batchnorm, build, execute, initializers, normal

GRAPH = """(float[n,6] x) => (float[n,3] y) {
    h = Gemm<transB=1>(x, w1, b1)
    m = BatchNormalization(h, n_scale, n_bias, n_mean, n_var)
    r = Relu(m)
    y = MatMul(r, w2)
}"""
X = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)


def weights(seed: int, scale: float = 1.0) -> dict[str, NDArray[np.float32]]:
    return {**normal(w1=(8, 6), b1=(8,), w2=(8, 3), seed=seed, scale=scale), **batchnorm("n", 8, seed=seed)}


def tuned(seed: int) -> onnx.ModelProto:
    """The base with its matrices changed a little, and statistics of its own."""
    moved = normal(w1=(8, 6), b1=(8,), w2=(8, 3), seed=seed, scale=0.2)
    own = {name: array + moved.get(name, np.float32(0)) for name, array in weights(0).items()}
    return build(GRAPH, {**own, "n_mean": own["n_mean"] + np.float32(0.1 * seed)})


BASE = build(GRAPH, weights(0))
MODELS = [tuned(1), tuned(2), tuned(3)]
UNLABELLED = [name for name, method in TASK_VECTORS.items() if "labels" not in method.needs]
"""The methods that take models without labels; tests/pipeline/selection/test_ingredients.py has the other."""


def test_task_arithmetic_without_data(tmp_path: Path) -> None:
    result = merge(MODELS, base=BASE, method="task-arithmetic", scale=0.5)
    merged, base = onnx.load(result.save(tmp_path / "m.onnx")), initializers(BASE)
    parents = [initializers(model) for model in MODELS]
    for name, array in initializers(merged).items():
        change = sum(parent[name] - base[name] for parent in parents)
        expected = np.mean([p[name] for p in parents], axis=0) if name == "n_mean" else base[name] + 0.5 * change
        np.testing.assert_allclose(array, expected, atol=1e-5)
    report = result.report
    assert report.base is not None
    assert (report.scale, report.density, report.alpha, report.repair) == (0.5, 1.0, None, "none")
    assert any("units are taken in the order of" in note for note in report.notes)
    assert any("averaged" in note for note in report.notes)
    metadata = {entry.key: entry.value for entry in merged.metadata_props}
    assert metadata["onnxmerge.base"] == report.base[1]
    assert (metadata["onnxmerge.scale"], metadata["onnxmerge.density"]) == ("0.5", "1.0")
    assert "onnxmerge.alpha" not in metadata


def reordered(model: onnx.ModelProto, seed: int, folder: Path) -> onnx.ModelProto:
    return onnx.load(permute(model, seed=seed).save(folder / f"permuted-{seed}.onnx"))


@pytest.mark.parametrize("method", UNLABELLED)
def test_a_fine_tune_of_a_permuted_base_is_brought_into_its_order(tmp_path: Path, method: str) -> None:
    models = MODELS[: TASK_VECTORS[method].models]
    expected = merge(models, base=base_for(method), method=method)
    assert not any("brought into the order" in note for note in expected.report.notes)
    moved = [models[0], *(reordered(model, place, tmp_path) for place, model in enumerate(models[1:], start=1))]
    found = merge(moved, base=base_for(method), method=method)
    assert sum("brought into the order of" in note for note in found.report.notes) == len(moved) - 1
    assert not any("no fine-tune" in note for note in found.report.notes)
    wanted, have = (initializers(onnx.load(each.save(tmp_path / "m.onnx"))) for each in (expected, found))
    for name, array in wanted.items():
        np.testing.assert_array_equal(have[name], array, err_msg=name)


def test_a_model_of_another_training_is_matched_by_what_it_does_and_said() -> None:
    stranger = build(GRAPH, weights(7))
    for calibration, method in ((None, "rebasin"), ({"x": X}, "act-align")):
        notes = merge([MODELS[0], stranger], base=BASE, method="ties", calibration=calibration).report.notes
        assert any("brought into the order of" in note and f"by {method}" in note for note in notes), notes
        assert any("is no fine-tune of" in note for note in notes)


def test_dead_units_are_no_other_training() -> None:
    graph = "(float[n,6] x) => (float[n,3] y) { h = Gemm(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }"
    base, moved = (normal(w1=(6, 8), b1=(8,), w2=(8, 3), b2=(3,), seed=seed) for seed in (0, 1))
    tuned = {name: array + np.float32(0.05) * moved[name] for name, array in base.items()}
    for own in (base, tuned):
        own["w1"][:, :4] = own["b1"][:4] = own["w2"][:4] = 0
    other = {name: array + np.float32(0.01) for name, array in tuned.items()}
    other["w1"][:, :4] = other["b1"][:4] = other["w2"][:4] = 0
    models = [build(graph, own) for own in (tuned, other)]
    assert not any(
        "fine-tune of" in note for note in merge(models, base=build(graph, base), method="ties").report.notes
    )


def base_for(method: str) -> onnx.ModelProto | None:
    return BASE if TASK_VECTORS[method].takes_base else None


@pytest.mark.parametrize("method", UNLABELLED)
def test_batchnorm_is_measured_anew(tmp_path: Path, method: str) -> None:
    result = merge(MODELS[: TASK_VECTORS[method].models], base=base_for(method), calibration={"x": X}, method=method)
    found = initializers(onnx.load(result.save(tmp_path / "m.onnx")))
    h = X @ found["w1"].T + found["b1"]
    np.testing.assert_allclose(found["n_mean"], h.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(found["n_var"], h.var(axis=0), rtol=1e-3)
    assert result.report.repair == "BatchNorm re-estimated"
    assert not any("averaged" in note for note in result.report.notes)


@pytest.mark.parametrize("method", ["task-arithmetic", "ties", "dare"])
def test_a_single_change_that_is_kept_whole_comes_through(tmp_path: Path, method: str) -> None:
    """One model was tuned and the other not: the sum of what they learnt is the tuned model."""
    density = None if method == "task-arithmetic" else 1.0
    result = merge([MODELS[0], BASE], base=BASE, method=method, scale=1.0, density=density)
    found = onnx.load(result.save(tmp_path / "m.onnx"))
    before, after = initializers(MODELS[0]), initializers(found)
    for name in ("w1", "b1", "w2"):
        np.testing.assert_allclose(after[name], before[name], atol=1e-6)


def test_weights_that_are_equal_change_nothing_and_others_weigh() -> None:
    plain, equal, more = (
        merge(
            MODELS[:2], options=merge_options({"method": "task-arithmetic", "scale": 1.0, "weights": each}), base=BASE
        ).weights
        for each in (None, (2.0, 2.0), (3.0, 1.0))
    )
    first, second, base = (initializers(model)["w1"] for model in (*MODELS[:2], BASE))
    np.testing.assert_array_equal(plain["w1"], equal["w1"])
    np.testing.assert_allclose(more["w1"], base + 1.5 * (first - base) + 0.5 * (second - base), atol=1e-5)


def test_dare_is_reproducible_under_its_seed() -> None:
    one, same, other = (merge(MODELS, base=BASE, method="dare", seed=seed).weights["w1"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_base_must_have_the_models_structure() -> None:
    other = build(GRAPH.replace("Relu", "Sigmoid"), weights(0))
    with pytest.raises(StructureError, match="differ in structure") as error:
        merge(MODELS, base=other, method="ties")
    assert "\n" not in str(error.value)


def test_merged_models_run(tmp_path: Path) -> None:
    for method in UNLABELLED:
        model = onnx.load(
            merge(MODELS[: TASK_VECTORS[method].models], base=base_for(method), method=method).save(tmp_path / "m.onnx")
        )
        assert np.isfinite(execute(model, {"x": X})["y"]).all()


@pytest.mark.parametrize(
    ("options", "based", "message"),
    [
        ({"method": "ties"}, False, r"give it \(--base\); without it cart, greedy-soup, slerp, soup merge"),
        ({"method": "average"}, True, "--base is for methods .*task-arithmetic, ties.*; name one, or leave --base out"),
        ({"alpha": 0.3}, True, "does not use it; name one, or leave --base out"),
        ({"labels": np.arange(500) % 3}, True, r"--labels decide nothing .*\(method tsv-m\); leave them out"),
        ({"method": "average", "scale": 1.0}, False, "--scale is for methods .*; method average does not use it"),
        ({"method": "rebasin", "density": 0.5}, False, "--density is for methods"),
        ({"scale": 1.0}, False, r"--scale is for methods .*; choose one \(--method\)"),
        ({"method": "task-arithmetic", "density": 0.5}, True, "--density is for methods .*ties"),
        ({"method": "soup", "scale": 0.5}, False, "--scale is for methods .*; method soup does not use it"),
        ({"method": "soup"}, True, "starts from the mean of the models"),
        ({"method": "slerp"}, True, "merges 2 models, found 3"),
        ({"method": "ties", "density": 0.0}, True, "above 0"),
        ({"method": "dare", "density": 1.5}, True, "at most 1"),
        ({"method": "knots", "density": 0.5}, True, "drops nothing"),
        ({"method": "knots", "inner": "median"}, True, "--inner: expected one of mean, ties, dare, tsv-m, iso-c"),
        ({"method": "della", "density": 0.1, "epsilon": 0.3}, True, "--epsilon"),
        ({"method": "ties", "scale": float("nan")}, True, "finite"),
        ({"method": "ties", "refine": "ls"}, True, "use --method average"),
        ({"method": "ties", "repair": "rescale"}, True, "BatchNorm is re-estimated"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], based: bool, message: str) -> None:  # noqa: FBT001
    with pytest.raises(UsageError, match=message):
        merge(MODELS, base=BASE if based else None, calibration={"x": X}, **options)


def test_options_of_another_method_are_refused() -> None:
    with pytest.raises(UsageError, match="--rank is for methods cart; method dare does not use it"):
        merge(MODELS, base=BASE, options=merge_options({"method": "dare", "rank": 0.5}))


def test_layers_are_solved_after_a_task_vector_where_the_refinement_can() -> None:
    given: dict[str, Any] = {"base": BASE, "method": "task-arithmetic", "scale": 1.0, "calibration": {"x": X}}
    plain, refined = (merge(MODELS, **given, refine=refine) for refine in ("none", "featcal"))
    assert refined.report.repair == "FeatCal, BatchNorm re-estimated"
    assert not np.allclose(refined.weights["w2"], plain.weights["w2"], atol=1e-3)
    alone = merge([MODELS[0]] * 2, **{**given, "scale": 0.5}, refine="featcal")  # the base and all that one learnt
    for name in ("w1", "b1", "w2"):
        np.testing.assert_allclose(alone.weights[name], initializers(MODELS[0])[name], atol=1e-5)
    with pytest.raises(UsageError, match="--refine ls starts from a matched average"):
        merge(MODELS, **given, refine="ls")
