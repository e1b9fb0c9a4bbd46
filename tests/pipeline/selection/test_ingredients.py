"""``--method greedy-soup``: the models that are averaged are those of the paper's recipe, by held-out labels alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge import UsageError, merge, permute
from onnxmerge.pipeline.options import merge_options
from tests.command_line import Cli
from tests.graphs import batchnorm, build, execute, initializers, normal

GRAPH = "(float[n,6] x) => (float[n,4] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = MatMul(r, w2) }"
NORMED = """(float[n,6] x) => (float[n,4] y) {
    h = Gemm<transB=1>(x, w1, b1)
    m = BatchNormalization(h, n_scale, n_bias, n_mean, n_var)
    r = Relu(m)
    y = MatMul(r, w2)
}"""
LEARNED = ("w1", "b1", "w2")
NOISE = (0.25, 0.2, 1.0, 0.2, 0.3)
"""By how much each model differs from the one that is right."""

X = np.random.default_rng(0).standard_normal((600, 6)).astype(np.float32)

Weights = dict[str, NDArray[np.float32]]


def drawn(seed: int, scale: float = 1.0) -> Weights:
    return normal(w1=(8, 6), b1=(8,), w2=(8, 4), seed=seed, scale=scale)


def teacher() -> Weights:
    return drawn(0)


def tuned(seed: int, noise: float, graph: str = GRAPH) -> onnx.ModelProto:
    """The network that is right, with noise on its weights."""
    own = {name: array + drawn(seed, noise)[name] for name, array in teacher().items()}
    return normed(own) if graph == NORMED else build(graph, own)


def normed(own: Weights) -> onnx.ModelProto:
    """The network with BatchNorm, its statistics those that it meets."""
    h = X @ own["w1"].T + own["b1"]
    statistics = {**batchnorm("n", 8), "n_mean": h.mean(axis=0), "n_var": h.var(axis=0)}
    return build(NORMED, {**own, **statistics})


MODELS = [tuned(place + 11, noise) for place, noise in enumerate(NOISE)]
LABELS = execute(build(GRAPH, teacher()), {"x": X})["y"].argmax(axis=1)


def accuracy(weights: Weights, x: NDArray[np.float32] = X[4::5], labels: NDArray[Any] = LABELS[4::5]) -> float:
    """On the samples that are held out: every fifth."""
    return float((execute(build(GRAPH, weights), {"x": x})["y"].argmax(axis=1) == labels).mean())


def mean(models: list[Weights]) -> Weights:
    return {name: np.mean([own[name] for own in models], axis=0).astype(np.float32) for name in models[0]}


def recipe(models: list[Weights]) -> list[int]:
    """Recipe 1 of the paper, as it stands there."""
    scores = [accuracy(each) for each in models]
    taken: list[int] = []
    best = -1.0
    for place in sorted(range(len(models)), key=lambda each: (-scores[each], each)):
        found = accuracy(mean([models[each] for each in (*taken, place)]))
        if found >= best:
            taken, best = [*taken, place], found
    return taken


def soup(models: list[onnx.ModelProto] = MODELS, **more: Any) -> Any:
    return merge(models, calibration={"x": X}, labels=LABELS, method="greedy-soup", **more)


def taken(result: Any) -> list[int]:
    return [each.model for each in result.report.soup.taken]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("based", [False, True])
def test_the_models_of_the_papers_recipe_are_averaged(seed: int, *, based: bool) -> None:
    noise = np.random.default_rng(seed).uniform(0.15, 0.5, 5)
    models = [tuned(10 * seed + place + 1, each) for place, each in enumerate(noise)]
    weights = [initializers(model) for model in models]
    expected = recipe(weights)
    result = soup(models, base=build(GRAPH, teacher()) if based else None)
    assert taken(result) == expected
    for name, array in mean([weights[place] for place in expected]).items():
        np.testing.assert_allclose(result.weights[name], array, atol=1e-6)
    found = result.report.soup
    assert [each.accuracy for each in found.models] == sorted((accuracy(own) for own in weights), reverse=True)
    assert found.taken[-1].together == accuracy({name: result.weights[name] for name in LEARNED})
    assert (found.criterion, found.samples) == ("accuracy", 120)
    shares = np.zeros(5)
    shares[expected] = 1 / len(expected)
    np.testing.assert_allclose(result.report.weights, shares)


def test_it_is_no_uniform_soup_and_no_worse_than_the_best_model_on_what_was_held_out() -> None:
    result = soup()
    assert 1 < len(taken(result)) < len(MODELS)
    accuracies = [each.accuracy for each in result.report.soup.models]
    assert result.report.soup.taken[-1].together >= max(accuracies)
    assert not np.allclose(result.weights["w1"], merge(MODELS, method="soup").weights["w1"], atol=1e-3)


def test_only_samples_that_are_held_out_decide() -> None:
    wrong = (LABELS + 1) % 4
    wrong[4::5] = LABELS[4::5]
    other = merge(MODELS, calibration={"x": X}, labels=wrong, method="greedy-soup")
    assert other.report.soup == soup().report.soup


@pytest.mark.parametrize("based", [False, True])
def test_a_soup_of_one_model_is_that_model(tmp_path: Path, *, based: bool) -> None:
    """Its own running statistics too: there was nothing to average."""
    right = normed(teacher())
    strangers = [tuned(seed, 30.0, NORMED) for seed in (1, 2)]
    labels = execute(right, {"x": X})["y"].argmax(axis=1)
    given = {"base": tuned(7, 0.1, NORMED)} if based else {}
    models = [strangers[0], right, strangers[1]]
    result = merge(models, calibration={"x": X}, labels=labels, method="greedy-soup", **given)
    assert taken(result) == [1]
    merged = onnx.load(result.save(tmp_path / "m.onnx"))
    np.testing.assert_allclose(execute(merged, {"x": X})["y"], execute(right, {"x": X})["y"], rtol=1e-4, atol=1e-5)
    assert result.report.weights == (0, 1, 0)


def test_equal_models_are_taken_in_the_order_in_which_they_were_given() -> None:
    assert taken(soup([MODELS[1], MODELS[1], MODELS[1]])) == [0, 1, 2]


def test_batchnorm_is_measured_anew_in_what_is_judged_and_in_what_is_written() -> None:
    models = [tuned(seed, 0.25, NORMED) for seed in (11, 12, 13)]
    labels = execute(normed(teacher()), {"x": X})["y"].argmax(axis=1)
    result = merge(models, calibration={"x": X}, labels=labels, method="greedy-soup")
    assert len(taken(result)) > 1
    assert result.report.repair == "BatchNorm re-estimated"
    fit = np.delete(X, np.s_[4::5], axis=0)
    h = fit @ result.weights["w1"].T + result.weights["b1"]
    np.testing.assert_allclose(result.weights["n_mean"], h.mean(axis=0), atol=1e-4)


def test_weights_count_among_those_that_are_taken() -> None:
    models = [*MODELS[1:2], tuned(9, 30.0), MODELS[3]]
    result = soup(models, weights=(3.0, 5.0, 1.0))
    assert sorted(taken(result)) == [0, 2]
    assert result.report.weights == (0.75, 0, 0.25)
    own = [initializers(model)["w1"] for model in models]
    np.testing.assert_allclose(result.weights["w1"], 0.75 * own[0] + 0.25 * own[2], atol=1e-6)


def test_layers_are_refined_for_those_that_are_taken() -> None:
    some = [*MODELS[:2], MODELS[3]]
    plain, more = (soup(models, refine="featcal") for models in (some, [*some, tuned(9, 30.0)]))
    assert taken(plain) == taken(more)
    assert plain.report.repair == "FeatCal"
    for name in LEARNED:
        np.testing.assert_array_equal(plain.weights[name], more.weights[name])


def test_a_permuted_fine_tune_is_brought_into_order_first(tmp_path: Path) -> None:
    moved = [MODELS[0], *(onnx.load(permute(each, seed=3).save(tmp_path / "p.onnx")) for each in MODELS[1:])]
    result = soup(moved)
    assert any("brought into the order of" in note for note in result.report.notes)
    assert taken(result) == taken(soup())
    np.testing.assert_allclose(result.weights["w1"], soup().weights["w1"], atol=1e-6)


def test_text_vectors_tasks_and_regressions_are_judged_too(tmp_path: Path) -> None:
    words = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    answers = execute(build(GRAPH, teacher()), {"x": X})["y"]
    np.save(tmp_path / "words.npy", words)
    unit = words / np.linalg.norm(words, axis=1, keepdims=True)
    given: dict[str, Any] = {"calibration": {"x": X}, "method": "greedy-soup"}
    labels = (answers @ unit.T).argmax(axis=1)
    close = merge(MODELS, labels=labels, vectors=tmp_path / "words.npy", **given).report.soup
    assert close is not None
    own = [(execute(model, {"x": X[4::5]})["y"] @ unit.T).argmax(axis=1) == labels[4::5] for model in MODELS]
    assert close.models[0].accuracy == max(each.mean() for each in own)
    near = [MODELS[1], MODELS[3]]
    task = {"tasks": [{"name": "y", "regression": True}]}
    (tmp_path / "task.json").write_text(json.dumps(task))
    found = merge(near, labels=answers, tasks=tmp_path / "task.json", **given).report.soup
    assert found is not None
    assert found.criterion == "scaled score"
    assert found.taken[-1].together >= found.models[0].accuracy


def test_tokens_of_a_model_that_is_left_out_stay_its_own() -> None:
    """Nobody else knows what they mean."""
    graph = """(int64[n,5] ids) => (float[n,4] y) {
        rows = Gather(table, ids) m = ReduceMean<axes=[1], keepdims=0>(rows)
        h = Gemm(m, w, b) r = Relu(h) y = MatMul(r, v)
    }"""

    def reader(seed: int, tokens: list[int], noise: float) -> onnx.ModelProto:
        shapes = {"w": (6, 8), "b": (8,), "v": (8, 4)}
        own, other = (normal(table=(10, 6), seed=at) | normal(w=(6, 8), b=(8,), v=(8, 4), seed=at) for at in (0, seed))
        found = {name: array + np.float32(noise) * other[name] for name, array in own.items()}
        return build(graph, {**{name: found[name] for name in shapes}, "table": found["table"][tokens]}, opset=17)

    known = [[*range(8)], [*range(8)], [*range(10)]]
    models = [reader(seed, own, noise) for seed, (own, noise) in enumerate(zip(known, (0.0, 0.1, 3.0), strict=True), 1)]
    ids = np.random.default_rng(0).integers(0, 8, (400, 5))
    labels = execute(models[0], {"ids": ids})["y"].argmax(axis=1)
    vocab = [[f"t{token}" for token in own] for own in known]
    result = merge(models, calibration={"ids": ids}, labels=labels, vocab=vocab, method="greedy-soup")
    assert 2 not in taken(result)
    tables = [initializers(model)["table"] for model in models]
    rows, own = (np.sort(each[8:], axis=1) for each in (result.weights["table"], tables[2]))  # units may be moved
    np.testing.assert_array_equal(rows, own)
    expected = np.mean([tables[place] for place in taken(result)], axis=0)
    np.testing.assert_allclose(result.weights["table"][:8], expected, atol=1e-6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place, model in enumerate(MODELS):
        onnx.save(model, tmp_path / f"{place}.onnx")
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", LABELS)
    return tmp_path


FILES = tuple(f"{place}.onnx" for place in range(len(MODELS)))
DATA = ("--calib", "x.npy", "--labels", "y.npy")


def test_the_command_says_which_models_were_taken_and_repeats_itself(folder: Path, cli: Cli) -> None:
    told = ("--json", "r.json", "--card", "card.md", "--report", "page.html", "--save-recipe", "r.yaml")
    done = cli("run", *FILES, *DATA, "--method", "greedy-soup", "-o", "m.onnx", *told)
    assert "greedy soup: taken by accuracy on 120 held-out samples" in done.stdout
    expected = [f"{place}.onnx" for place in taken(soup())]
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("soup ")]
    assert [line.index(name) for name in expected] == sorted(line.index(name) for name in expected)
    assert "left out: " in line
    found = json.loads((folder / "r.json").read_text())
    assert [each["model"] for each in found["soup"]["models"] if each["taken"]] == taken(soup())
    assert found["labelled"]
    for page in ("card.md", "page.html"):
        assert "left out" in (folder / page).read_text()
    before = (folder / "m.onnx").read_bytes()
    cli("run", "r.yaml")
    assert (folder / "m.onnx").read_bytes() == before
    again = cli("check", "m.onnx", "--reproduce", *(each for name in FILES for each in ("--against", name)), *DATA)
    assert again.returncode == 0, again


def test_what_a_killed_run_judged_is_used_again(folder: Path, cli: Cli) -> None:
    given = ("run", *FILES, *DATA, "--method", "greedy-soup", "-o", "m.onnx", "--work-dir", "work")
    cli(*given)
    before = (folder / "m.onnx").read_bytes()
    again = cli(*given)
    assert "used again: " in again.stdout
    assert "used again: 0" not in again.stdout
    assert (folder / "m.onnx").read_bytes() == before


def test_a_dry_run_needs_no_labels(folder: Path, cli: Cli) -> None:  # noqa: ARG001 - the current folder
    done = cli("run", *FILES, "--calib", "x.npy", "--method", "greedy-soup", "--dry-run")
    assert "to be taken by accuracy" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": {"x": X}}, r"by their accuracy on held-out samples: give .*\(--calib, --labels\)$"),
        ({}, r"by their accuracy on held-out samples: give .*\(--calib, --labels\)$"),
        ({"labels": LABELS}, "give calibration data"),
        ({"calibration_of": [{"x": X}] * 5, "labels": LABELS}, "--labels are of the samples of --calib"),
        ({"calibration": {"x": X}, "labels": LABELS, "scale": 0.5}, "method greedy-soup does not use it"),
        ({"calibration": {"x": X}, "labels": LABELS, "weights": "auto"}, "--weights auto is for matched averages"),
        ({"calibration": {"x": X}, "labels": LABELS, "heads": "separate"}, "merges whole networks"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    own = {name: options[name] for name in options if name not in ("calibration", "calibration_of", "labels")}
    given = {name: options[name] for name in options if name not in own}
    with pytest.raises(UsageError, match=message) as error:
        merge(MODELS, options=merge_options({"method": "greedy-soup", **own}), **given)
    assert "\n" not in str(error.value)
