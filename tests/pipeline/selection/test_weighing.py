"""``--weights auto``: how much each model counts is found without labels, said, and repeated by what is said."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from onnxmerge import MergeOptions, UsageError, merge
from onnxmerge.recipes.file import read_recipe
from tests.command_line import Cli
from tests.graphs import build, execute, normal

END = {"logits": "y = Identity(z)", "Softmax": "y = Softmax(z)"}


def blobs(samples: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Points [samples, 8] around five centres, and which centre each is of."""
    rng, centres = np.random.default_rng(seed), 1.5 * np.random.default_rng(0).normal(size=(5, 8))
    right = rng.integers(0, 5, samples)
    return (centres[right] + rng.normal(size=(samples, 8))).astype(np.float32), right


@cache
def classifier(index: int, noise: float = 0.0, end: str = "Softmax") -> onnx.ModelProto:
    """Logistic regression on random features of ``blobs``, with noise on all weights, relative to their deviation."""
    rng = np.random.default_rng(index)
    hidden = (rng.normal(size=(24, 8)) / 3).astype(np.float32)
    x, right = blobs(800, 10 + index)
    h = np.c_[np.maximum(x @ hidden.T, 0), np.ones(len(x))]
    top = np.zeros((25, 5))
    for _ in range(200):
        top -= 0.1 * h.T @ (softmax(h @ top, axis=1) - np.eye(5)[right]) / len(h)
    weights = {"w1": hidden, "w2": top[:-1].T.astype(np.float32), "b2": top[-1].astype(np.float32)}
    spoilt = {name: own + noise * own.std() * rng.normal(size=own.shape) for name, own in weights.items()}
    graph = "(float[n,8] x) => (float[n,5] y) { a = Gemm<transB=1>(x, w1) h = Relu(a) "
    graph += f"z = Gemm<transB=1>(h, w2, b2) {END.get(end, end)} }}"
    return build(graph, {name: own.astype(np.float32) for name, own in spoilt.items()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, noise in enumerate((0, 0, 2.0)):
        onnx.save(classifier(index, noise), tmp_path / f"{index}.onnx")
    x, right = blobs(1000, 50)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", right)
    return tmp_path


def correct(model: onnx.ModelProto) -> float:
    x, right = blobs(2000, 51)
    return float((execute(model, {"x": x})["y"].argmax(axis=1) == right).mean())


def said(lines: Iterable[str], title: str) -> list[str]:
    return [line.removeprefix(title).strip() for line in lines if line.startswith(title)]


@pytest.mark.parametrize("end", END)
def test_a_bad_model_counts_less_and_the_merge_is_better_for_it(end: str, tmp_path: Path) -> None:
    models = [classifier(index, noise, end) for index, noise in enumerate((0, 0, 2.0))]
    asked: dict[str, Any] = {"calibration": blobs(1000, 50)[0], "method": "act-align", "answer": "ensemble"}
    asked |= {"outputs": "logits", "repair": "none"} if end == "logits" else {"repair": "none"}
    results = [merge(models, **asked, weights=weights) for weights in (None, "auto")]
    equal, auto = (correct(onnx.load(each.save(tmp_path / "m.onnx"))) for each in results)
    assert auto > equal + 0.02
    found = results[1].report.weighing
    assert found is not None
    assert found.weights[2] < 0.5 * min(found.weights[:2])
    np.testing.assert_allclose(found.parents, [correct(model) for model in models], atol=0.08)


def test_models_that_know_alike_count_alike() -> None:
    models = [classifier(index) for index in range(3)]
    result = merge(
        models, calibration=blobs(1000, 50)[0], method="average", repair="none", answer="ensemble", weights="auto"
    )
    assert result.report.weighing is not None
    assert result.report.weighing.weights == (1, 1, 1)
    assert result.report.weights == pytest.approx((1 / 3,) * 3)


def test_models_that_never_agree_count_alike_and_that_is_said() -> None:
    models = [classifier(index, 1e3) for index in range(4)]
    result = merge(
        models, calibration=blobs(600, 50)[0], method="average", repair="none", answer="ensemble", weights="auto"
    )
    found = result.report.weighing
    assert found is not None
    assert (found.weights, len(found.candidates)) == ((1, 1, 1, 1), 1)
    assert "agree too little" in found.notes[0]
    labels = np.arange(600) % 5
    given: dict[str, Any] = {"method": "average", "repair": "none", "answer": "ensemble", "weights": "auto"}
    told = merge(
        models, calibration=blobs(600, 50)[0], labels=labels, **given
    ).report.weighing  # labels tell, whoever agrees
    assert told is not None
    assert len(told.candidates) > 1
    assert told.notes == ()


@pytest.mark.parametrize(
    "given",
    [
        ("--effort", "fast", "--weights", "auto"),
        ("--weights=auto", "--method", "average", "--answer=ensemble"),
        ("--weights", "auto", "--method", "average", "--answer", "mean", "--repair", "none", "--labels", "y.npy"),
        ("--weights", "auto", "--method", "zipit", "--refine", "ls", "--labels", "y.npy", "--samples", "800"),
    ],
)
def test_what_it_says_repeats_it(given: tuple[str, ...], folder: Path, cli: Cli) -> None:
    """The command that is printed has numbers, and gives the same bytes."""
    given = tuple("x2.npy" if word == "x.npy" else word for word in given)
    if "--samples" in given:
        np.save(folder / "y.npy", np.load(folder / "y.npy")[:800])
    models = [f"{index}.onnx" for index in range(3)]
    done = cli("run", *given, *models, "--calib", "x.npy", "-o", "m.onnx", "--json", "m.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "m.json").read_text())
    weighing = found["weighing"]
    chosen = weighing["candidates"][weighing["chosen"]]["weights"]
    assert found["weights"] == pytest.approx(np.array(chosen) / sum(chosen))
    lines = done.stdout.splitlines()
    (told,) = (each for each in said(lines, "weights") if "by their own lights" in each)
    assert told.startswith(", ".join(f"{weight:g}" for weight in chosen))
    (command,) = said(lines, "the same again")
    assert f"--weights {','.join(f'{weight:g}' for weight in chosen)}" in command
    assert ("auto" in command, "--labels" in command) == (False, False)
    first = (folder / "m.onnx").read_bytes()
    again = cli(*shlex.split(command)[1:])
    assert again.returncode == 0, again.stderr
    assert "the same again" not in again.stdout
    assert (folder / "m.onnx").read_bytes() == first


def test_a_recipe_has_it(folder: Path, cli: Cli) -> None:
    how = ("--method", "average", "--repair", "none", "--weights", "auto")
    asked = ("run", "0.onnx", "1.onnx", "2.onnx", "--calib", "x.npy", *how)
    assert cli(*asked, "-o", "m.onnx", "--save-recipe", "r.yaml").returncode == 0
    assert "weights: auto" in (folder / "r.yaml").read_text()
    assert read_recipe(folder / "r.yaml").options.weights == "auto"
    first = (folder / "m.onnx").read_bytes()
    done = cli("run", "r.yaml", "--report", "m.html")
    assert done.returncode == 0, done.stderr
    assert (folder / "m.onnx").read_bytes() == first
    assert "Weights of the models" in (folder / "m.html").read_text()
    (command,) = said(done.stdout.splitlines(), "the same again")
    assert cli(*shlex.split(command)[1:]).returncode == 0
    assert (folder / "m.onnx").read_bytes() == first
    plan = cli(*asked, "--dry-run")
    assert said(plan.stdout.splitlines(), "weights")[0].startswith("to be found")


def test_a_recipe_whose_labels_decided_is_repeated_without_what_they_mean(folder: Path, cli: Cli) -> None:
    (folder / "r.yaml").write_text(
        "models: [0.onnx, 1.onnx, 2.onnx]\ncalibration: {data: x.npy}\noutput: m.onnx\nlabels: y.npy\n"
        "tasks: [all=0-4]\nmethod: average\nanswer: mean\nweights: auto\n",
        encoding="utf-8",
    )
    done = cli("run", "r.yaml")
    assert done.returncode == 0, done.stderr
    first = (folder / "m.onnx").read_bytes()
    (command,) = said(done.stdout.splitlines(), "the same again")
    again = cli(*shlex.split(command)[1:])
    assert again.returncode == 0, again.stderr
    assert (folder / "m.onnx").read_bytes() == first


def test_labels_decide_where_there_are_any(folder: Path) -> None:
    asked: dict[str, Any] = {"calibration": folder / "x.npy", "method": "average", "weights": "auto"}
    result = merge([folder / f"{index}.onnx" for index in range(3)], labels=folder / "y.npy", **asked)
    found = result.report.weighing
    assert found is not None
    assert found.criterion == "accuracy"
    every = [each.accuracy for each in found.candidates]
    assert every[found.chosen] == max(every, key=lambda value: value or 0)


@pytest.mark.parametrize(
    ("end", "asked"),
    [
        ("y = Sigmoid(z)", {}),
        ("y = Identity(z)", {"outputs": "regression"}),
        ("y = Identity(z)", {"outputs": "features"}),
    ],
)
def test_answers_that_are_no_common_classes_are_refused(end: str, asked: dict[str, Any]) -> None:
    models = [classifier(index, end=end) for index in range(2)]
    with pytest.raises(UsageError, match="weighs models by the classes that all of them answer"):
        merge(models, calibration=blobs(400, 50)[0], weights="auto", effort="fast", **asked)


def test_answers_that_only_one_model_gives_are_refused() -> None:
    """Heads of other classes stay apart, so that nothing is answered together."""
    four = "(float[n,8] x) => (float[n,4] y) { a = Gemm<transB=1>(x, w1) h = Relu(a) y = Gemm<transB=1>(h, w2, b2) }"
    other = build(four, normal(w1=(24, 8), w2=(4, 24), b2=(4,)))
    five = build(four.replace("[n,4]", "[n,5]"), normal(w1=(24, 8), w2=(5, 24), b2=(5,), seed=1))
    with pytest.raises(UsageError, match="weighs models by the classes that all of them answer"):
        merge([five, other], calibration=blobs(400, 50)[0], weights="auto", method="average")


def test_the_word_is_auto() -> None:
    with pytest.raises(UsageError, match="--weights: expected auto, or a number for each model"):
        merge([classifier(0), classifier(1)], options=MergeOptions(weights="all"))  # type: ignore[arg-type]


def test_embeddings_are_weighed_by_class_vectors_that_all_know(folder: Path, cli: Cli) -> None:
    np.save(folder / "v.npy", np.eye(5, dtype=np.float32))
    for index, noise in enumerate((0, 0, 2.0)):
        onnx.save(classifier(index, noise, "logits"), folder / f"{index}.onnx")
    asked = ("run", "0.onnx", "1.onnx", "2.onnx", "--calib", "x.npy", "-o", "m.onnx", "--method", "average")
    refused = cli(*asked, "--weights", "auto", "--outputs", "embedding")
    assert refused.returncode == 2
    assert "y (embedding)" in refused.stderr
    done = cli(*asked, "--weights", "auto", "--vectors", "v.npy", "--answer", "ensemble", "--json", "m.json")
    assert done.returncode == 0, done.stderr
    parents = json.loads((folder / "m.json").read_text())["weighing"]["parents"]
    assert parents[2] < min(parents[:2]) - 0.2
    (command,) = said(done.stdout.splitlines(), "the same again")
    first = (folder / "m.onnx").read_bytes()
    assert cli(*shlex.split(command)[1:]).returncode == 0
    assert (folder / "m.onnx").read_bytes() == first
