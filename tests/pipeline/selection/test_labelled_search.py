"""Searches that labels decide: by which outputs, tasks and targets, and that it is what ``evaluate`` finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge import InputError, UsageError, evaluate, merge, permute
from onnxmerge.api import MergeResult
from onnxmerge.evaluation.notation import parse_task
from onnxmerge.evaluation.task import Task
from tests.graphs import build, execute, normal
from tests.heads.networks import mlp

TWO = """(float[n,6] x) => (float[n,4] y, float[n,2] z) {
    h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = MatMul(r, w2) z = MatMul(r, w3)
}"""
X: NDArray[np.float32] = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
HELD = X[4::5]
WORDS: NDArray[np.float32] = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)


def network(seed: int) -> onnx.ModelProto:
    return build(TWO, normal(w1=(8, 6), b1=(8,), w2=(8, 4), w3=(8, 2), seed=seed))


def outputs(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return execute(model, {"x": X})


def nearest(embeddings: NDArray[Any]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = (embeddings @ (WORDS / np.linalg.norm(WORDS, axis=1, keepdims=True)).T).argmax(axis=1)
    return found


@pytest.fixture
def words(tmp_path: Path) -> Path:
    np.save(tmp_path / "words.npy", WORDS)
    return tmp_path / "words.npy"


def searched(models: list[onnx.ModelProto], labels: Any, **more: Any) -> tuple[MergeResult, dict[str, float]]:
    """A search without repair, so that what is merged in the end is what was examined; the mark of each method."""
    settings: dict[str, Any] = {"method": "auto", "repair": "none", "refine": "none", **more}
    result = merge(models, calibration={"x": X}, labels=labels, **settings)
    found = result.report.search
    assert found is not None
    assert found.samples == 100
    marks = {each.method: each.accuracy for each in found.candidates if each.accuracy is not None}
    assert len(marks) == len(found.candidates)
    assert marks[result.report.method] == max(marks.values())
    return result, marks


def test_embeddings_are_compared_with_class_vectors(tmp_path: Path, words: Path) -> None:
    copy = onnx.load(permute(network(1), seed=2).save(tmp_path / "copy.onnx"))
    labels = nearest(outputs(network(1))["y"])
    result, marks = searched([network(1), copy], labels, vectors=words)
    assert result.report.search is not None
    assert result.report.search.criterion == "accuracy"
    assert marks.pop("average") < 1
    assert min(marks.values()) == 1
    wrong, _ = searched([network(1), copy], (labels + 1) % 5, vectors=words)
    assert wrong.report.method == "average"


def test_the_mean_over_tasks_with_outputs_of_their_own_decides() -> None:
    pair = [network(1), network(2)]
    labels = {"word": nearest(outputs(pair[0])["y"]), "side": outputs(pair[1])["z"].argmax(axis=1)}
    tasks = [Task("word", vectors=WORDS, output="y"), Task("side", output="z")]
    result, marks = searched(pair, labels, tasks=tasks)
    held = {name: array[4::5] for name, array in labels.items()}
    scores = evaluate(result, HELD, held, tasks=tasks).models[0].scores
    assert scores.average is not None
    assert marks[result.report.method] == pytest.approx(scores.average[0])
    assert len(set(marks.values())) > 2


def test_regressions_count_by_their_scaled_scores() -> None:
    pair = [network(1), network(2)]
    found = [outputs(model) for model in pair]
    targets = {"word": found[0]["y"] + 0.1, "side": found[1]["z"].argmax(axis=1), "depth": found[1]["z"] - 0.2}
    numbers = [Task("word", kind="regression", output="y"), Task("depth", kind="regression", output="z")]
    held = {name: array[4::5] for name, array in targets.items()}
    result, marks = searched(pair, targets, tasks=numbers)
    told = evaluate(result, HELD, held, tasks=numbers, parents=pair)
    assert marks[result.report.method] == pytest.approx(told.scaled_average(told.models[-1]), rel=1e-4)
    assert result.report.search is not None
    assert result.report.search.criterion == "scaled score"

    mixed = [numbers[0], Task("side", output="z")]
    result, marks = searched(pair, targets, tasks=mixed)
    model = evaluate(result, HELD, held, tasks=mixed, parents=pair).models[-1]
    assert model.scaled[0] is not None
    assert model.scores.average is not None
    assert marks[result.report.method] == pytest.approx((model.scaled[0] + model.scores.average[0]) / 2, rel=1e-4)
    assert result.report.search is not None
    assert result.report.search.criterion == "accuracy and scaled score"


def test_what_a_parent_learned_may_have_another_name_there() -> None:
    """A regression is scaled by the parent that learned it, whose outputs an exporter may have named otherwise."""
    pair = [network(1), network(2)]
    targets = {"a": outputs(pair[0])["y"] + 0.1, "b": outputs(pair[1])["z"] - 0.2}
    tasks = [Task("a", kind="regression", output="y"), Task("b", kind="regression", output="z")]
    _, expected = searched(pair, targets, tasks=tasks)
    for value, name in zip(pair[1].graph.output, ("p", "q"), strict=True):
        node = next(node for node in pair[1].graph.node if node.output[0] == value.name)
        value.name = node.output[0] = name
    _, marks = searched(pair, targets, tasks=tasks)
    assert marks == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_separate_heads_are_examined_behind_the_trunk(kind: Any) -> None:
    pair = [mlp(1, classes=3), mlp(2, classes=4)]
    found = [outputs(model)["y"] for model in pair]
    names = [f"y_{letter}" for letter in "ab"]
    labels = dict(zip("ab", found if kind == "regression" else [each.argmax(axis=1) for each in found], strict=True))
    tasks = [Task(name, kind=kind, output=output) for name, output in zip("ab", names, strict=True)]
    result, marks = searched(pair, labels, tasks=tasks)
    assert result.report.heads is not None
    assert result.report.heads.outputs == tuple((name,) for name in names)
    held = {name: array[4::5] for name, array in labels.items()}
    told = evaluate(result, HELD, held, tasks=tasks, parents=pair)
    model = told.models[-1]
    average = told.scaled_average(model) if kind == "regression" else (model.scores.average or (None,))[0]
    assert marks[result.report.method] == pytest.approx(average, rel=1e-4)
    assert len(set(marks.values())) > 2


def test_a_repair_is_chosen_by_tasks_too(words: Path) -> None:
    pair = [network(1), network(2)]
    labels = nearest(outputs(pair[1])["y"])
    settings: dict[str, Any] = {"calibration": {"x": X}, "method": "act-align", "refine": "none"}
    report = merge(pair, labels=labels, vectors=words, **settings).report
    marks = {each.repair: (each.accuracy or 0.0, each.reconstruction) for each in report.repairs}
    assert len(set(marks.values())) > 1
    assert marks[report.repair] == max(marks.values())


LABELS = np.arange(500) % 2


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"labels": None, "tasks": [Task("a")]}, UsageError, "give the labels too"),
        ({"labels": None, "vectors": "w.npy"}, UsageError, "give the labels too"),
        ({"tasks": [Task("a"), Task("b")]}, InputError, "has outputs y, z; say which answers task 'a'"),
        ({"tasks": [Task("a", output="nosuch"), Task("b", output="y")]}, InputError, "none .* answers task 'a'"),
        ({"tasks": [Task("a", output="nosuch")]}, InputError, "has outputs y, z, none of those that tasks name"),
        ({"labels": LABELS + 3}, InputError, "task 'labels' has label 4, the model tells 4 classes apart"),
        ({"labels": "."}, UsageError, "give it as the data too"),
        ({"vectors": "w.npy"}, InputError, "w.npy: no such file"),
        ({"tasks": [Task("t", vectors=WORDS[:, :3], output="y")]}, InputError, r"expected \[N, 3\] as the vectors"),
        ({"tasks": [parse_task("low=0"), parse_task("low=1")]}, UsageError, "names of their own"),
        (
            {"tasks": [Task("t", kind="regression", output="z", columns=(0,))]},
            InputError,
            "task 't': the parents that learned it are no better",
        ),
        (
            {"tasks": [Task(name, kind="regression", output="z") for name in "abc"]},
            UsageError,
            "2 parents and 3 tasks",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    pair = [network(1), network(2)]
    with pytest.raises(error, match=message) as told:
        merge(pair, **{"calibration": {"x": X}, "labels": LABELS, "method": "auto", **settings})
    assert "\n" not in str(told.value)


def test_labels_do_not_fit_methods_that_choose_nothing() -> None:
    with pytest.raises(UsageError, match="--labels decide nothing where what models learnt is added up"):
        merge([network(1), network(2)], base=network(3), method="ties", calibration={"x": X}, labels=LABELS)
