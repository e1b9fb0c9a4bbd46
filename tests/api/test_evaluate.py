"""Evaluating: heads of every sort, parents and their ensemble, and agreement with an independent scorer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from scipy.special import softmax

from onnxmerge import EvaluationResult, InputError, UsageError, evaluate, merge
from onnxmerge.evaluation.intervals import wilson
from onnxmerge.evaluation.scorer import Accuracy, Regression, Scores
from onnxmerge.evaluation.task import Task
from tests.graphs import build, normal

LINEAR = "(float[n,3] x) => (float[n,{size}] {name}) {{ {name} = MatMul(x, w) }}"
HEADS = (
    "(float[n,3] x) => (float[n,2] logits_a, float[n,2] logits_b) { logits_a = MatMul(x, v) logits_b = MatMul(x, w) }"
)
ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


def linear(weight: Any, name: str = "y") -> onnx.ModelProto:
    weight = np.asarray(weight, np.float32)
    return build(LINEAR.format(size=weight.shape[1], name=name), {"w": weight})


def top(found: EvaluationResult, model: int, task: int, k: int = 0) -> float:
    score = found.models[model].scores.tasks[task]
    assert isinstance(score, Accuracy)
    return score.top[k]


def test_logits() -> None:
    weight = normal(w=(3, 5))["w"]
    labels = np.arange(40) % 5
    logits = ROWS @ weight
    found = evaluate(linear(weight), ROWS, labels, top_k=(1, 3))
    assert top(found, 0, 0) == pytest.approx((logits.argmax(axis=1) == labels).mean())
    best = np.argsort(-logits, axis=1)[:, :3]
    assert top(found, 0, 0, 1) == pytest.approx((best == labels[:, None]).any(axis=1).mean())
    assert found.models[0].scores.joint is None


def test_tasks_that_share_one_output_of_logits() -> None:
    weight = normal(w=(3, 4))["w"]
    labels, logits = np.arange(40) % 4, ROWS @ weight
    low, high = Task("low", row_of={0: 0, 1: 1}), Task("high", row_of={2: 0, 3: 1})
    found = evaluate(linear(weight), ROWS, labels, tasks=[low, high])
    mine = labels < 2
    assert top(found, 0, 0) == pytest.approx((logits[mine, :2].argmax(axis=1) == labels[mine]).mean())
    joint = found.models[0].scores.joint
    assert joint is not None
    assert joint.top[0] == pytest.approx((logits.argmax(axis=1) == labels).mean())


def test_a_head_for_each_task_beside_the_parents_and_their_ensemble() -> None:
    weights = normal(v=(3, 2), w=(3, 2), scale=3)
    logits = [ROWS @ weights["v"], ROWS @ weights["w"]]
    labels = np.where(np.arange(40) < 20, logits[0].argmax(axis=1), 2 + logits[1].argmax(axis=1))
    tasks = [
        Task("a", row_of={0: 0, 1: 1}, output="logits_a"),
        Task("b", row_of={2: 0, 3: 1}, output="logits_b"),
    ]
    parents = [linear(weights["v"], "logits"), linear(weights["w"], "logits")]
    found = evaluate({"merged": build(HEADS, weights)}, ROWS, labels, tasks=tasks, parents=parents)
    first, second, ensemble, _, merged = found.models
    assert [model.role for model in found.models] == ["parent", "parent", "ensemble", "answer", "model"]
    assert (top(found, 0, 0), first.scores.tasks[1]) == (1.0, None)
    assert (second.scores.tasks[0], top(found, 1, 1)) == (None, 1.0)
    assert first.scores.joint is None
    assert merged.scores == ensemble.scores
    assert merged.scores.average == (1.0,)
    parts = [np.exp(own) / np.exp(own).sum(axis=1, keepdims=True) for own in logits]
    expected = (np.concatenate(parts, axis=1).argmax(axis=1) == labels).mean()
    assert merged.scores.joint is not None
    assert merged.scores.joint.top[0] == pytest.approx(expected)
    assert 0 < expected < 1


def by_role(found: EvaluationResult, role: str) -> Scores:
    (scores,) = (model.scores for model in found.models if model.role == role)
    return scores


def test_the_ensemble_as_a_merge_aims_at_it_beside_the_plain_one() -> None:
    axes = np.eye(4, dtype=np.float32)
    tasks = [
        Task(name, row_of={first: 0, first + 1: 1}, vectors=axes[first : first + 2])
        for name, first in (("low", 0), ("high", 2))
    ]
    answers = [
        np.array(
            [[0.6, 0.55, 0, 0], [0.5, 0.48, 0, 0]], np.float32
        ),  # of the first parent to the samples of labels 0, 2
        np.array([[0, 0, 0.9, 0.88], [0, 0, 0.9, 0.7]], np.float32),
    ]
    model = "(float[n,2] x) => (float[n,4] y) { y = MatMul(x, w) }"
    parents = [build(model, {"w": weight}) for weight in answers]
    found = evaluate([], np.eye(2, dtype=np.float32), np.array([0, 2]), tasks=tasks, parents=parents)
    for role, temperature in (("ensemble", 0.01), ("answer", 0.05)):
        cosines = [own / np.linalg.norm(own, axis=1, keepdims=True) for own in answers]
        each = [
            softmax(own[:, part] / temperature, axis=1)
            for own, part in zip(cosines, (slice(2), slice(2, 4)), strict=True)
        ]
        both = np.concatenate(each, axis=1)
        assert both.argmax(axis=1).tolist() == [0, 2]
        joint = by_role(found, role).joint
        assert joint is not None
        assert joint.top[0] == 1
        assert joint.calibration_error == pytest.approx(1 - both.max(axis=1).mean(), abs=1e-6)


def test_parents_of_one_label_set_average_milder_probabilities() -> None:
    weights = [np.diag(scale) for scale in ([9.0, 0, 0], [0.0, 3, 0], [0.0, 3, 0])]
    one = np.ones((1, 3), np.float32)
    found = evaluate([], one, np.array([1]), parents=[linear(weight) for weight in weights])
    for role, temperature in (("ensemble", 1), ("answer", 2)):
        chances = np.mean([softmax(one @ weight / temperature) for weight in weights], axis=0)
        (score,) = by_role(found, role).tasks
        assert isinstance(score, Accuracy)
        assert score.top[0] == 1.0
        assert score.calibration_error == pytest.approx(1 - chances[0, 1], abs=1e-6)
    assert found.notes == (
        "output 'y': logits, for its columns are scores of classes; ECE takes their softmax",
        "ensemble as --answer forms it: each parent among the classes that it learned, logits at temperature 2",
    )


@pytest.mark.parametrize(
    ("outputs", "error"), [(None, 0.45), ("probabilities", 0.45), ("y=probabilities", 0.45), ("logits", 0.0743)]
)
def test_calibration_error_by_what_the_output_is(outputs: str | None, error: float) -> None:
    chances = np.array([[0.7, 0.3], [0.4, 0.6], [0, 0]])
    found = evaluate(linear(chances), np.eye(2, 3, dtype=np.float32), np.array([0, 0]), outputs=outputs)
    (score,) = found.models[0].scores.tasks
    assert isinstance(score, Accuracy)
    assert score.calibration_error == pytest.approx(error, abs=1e-4)
    assert score.intervals == (wilson(1, 2),)
    json = found.to_dict()["models"][0]["tasks"]["classes"]
    assert json["calibration_error"] == score.calibration_error
    assert json["interval"] == {"top1": list(wilson(1, 2))}


def test_a_model_that_answers_no_numbers_has_no_calibration_error() -> None:
    found = evaluate(linear(np.full((3, 2), np.inf)), ROWS, np.zeros(40, int))
    assert found.to_dict()["models"][0]["tasks"]["classes"]["calibration_error"] is None


def test_class_vectors_from_a_file(digits: Path, tmp_path: Path) -> None:
    entries = json.loads((digits / "task.json").read_text())["tasks"]
    np.save(tmp_path / "words.npy", np.concatenate([entry["vectors"] for entry in entries]))
    tasks = [
        Task(entry["name"], row_of={label: row for row, label in enumerate(entry["classes"])}) for entry in entries
    ]
    parents, test = [digits / "a.onnx", digits / "b.onnx"], digits / "test.npz"
    found = evaluate([], test, test, tasks=tasks, vectors=tmp_path / "words.npy", parents=parents)
    expected = evaluate([], test, test, tasks=digits / "task.json", parents=parents)
    assert [model.scores for model in found.models] == [model.scores for model in expected.models]


def test_the_task_file_knows_what_each_parent_learned(digits: Path) -> None:
    parents, test = [digits / "b.onnx", digits / "a.onnx"], digits / "test.npz"
    found = evaluate([], test, test, tasks=digits / "task.json", parents=parents)
    assert [model.learned for model in found.models] == [(1,), (0,), (), ()]
    assert top(found, 2, 0) > 0.98


def test_a_merge_that_is_not_written_yet(digits: Path, tmp_path: Path) -> None:
    result, test = merge([digits / "a.onnx", digits / "b.onnx"], method="rebasin"), digits / "test.npz"
    written = result.save(tmp_path / "m.onnx")
    found = evaluate([result, written], test, test, tasks=digits / "task.json")
    assert [model.name for model in found.models] == ["merged (rebasin)", str(written)]
    assert found.models[0].scores == found.models[1].scores


REGRESSION = [Task("depth", kind="regression", columns=(0,)), Task("flow", kind="regression", columns=(1, 2))]


def regression(baseline: Any = "average") -> tuple[EvaluationResult, list[Any], dict[str, Any]]:
    weights = [normal(w=(3, 3), seed=seed)["w"] for seed in range(3)]
    targets = {"depth": ROWS @ weights[0][:, 0] + 0.1, "flow": ROWS @ weights[1][:, 1:] - 0.2}
    models = [linear(weight) for weight in weights]
    found = evaluate(models[2], ROWS, targets, tasks=REGRESSION, parents=models[:2], baseline=baseline)
    return found, weights, targets


def test_errors_of_regressions_and_scores_scaled_to_the_plain_average() -> None:
    found, weights, targets = regression()
    assert [model.role for model in found.models] == ["parent", "parent", "ensemble", "average", "model"]
    model = found.models[-1].scores.tasks[1]
    assert isinstance(model, Regression)
    difference = ROWS @ weights[2][:, 1:] - targets["flow"]
    np.testing.assert_allclose(model.absolute, np.abs(difference).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(model.squared, np.square(difference).mean(axis=0), rtol=1e-5)
    low, high = model.absolute_intervals[0]
    assert low < model.absolute[0] < high
    assert found.to_dict()["models"][-1]["tasks"]["flow"]["mean_absolute_error_interval"][0] == [low, high]
    mean = (weights[0] + weights[1]) / 2
    lowest = np.square(ROWS @ mean[:, 1:] - targets["flow"]).mean()
    expected = (lowest - np.square(difference).mean()) / (lowest - 0.04)
    assert found.baseline == "average"
    assert found.models[-1].scaled[1] == pytest.approx(expected, rel=1e-4)
    assert found.models[0].scaled[0] == pytest.approx(1)
    assert found.models[1].scaled[1] == pytest.approx(1)
    assert found.models[2].scaled == pytest.approx((1, 1))
    assert found.models[3].scaled == pytest.approx((0, 0), abs=1e-9)
    assert found.scaled_average(found.models[2]) == pytest.approx(1)
    assert found.to_dict()["models"][3]["scaled_average"] == pytest.approx(0, abs=1e-9)


def test_scores_scaled_to_the_mean_target() -> None:
    found, weights, targets = regression("mean")
    assert [model.role for model in found.models] == ["parent", "parent", "ensemble", "model"]
    lowest = targets["depth"].var()
    loss = np.square(ROWS @ weights[2][:, 0] - targets["depth"]).mean()
    assert found.models[-1].scaled[0] == pytest.approx((lowest - loss) / (lowest - 0.01), rel=1e-4)


def test_parents_that_cannot_be_averaged_leave_a_note() -> None:
    wide = "(float[n,3] x) => (float[n,1] y) { h = MatMul(x, v) r = Relu(h) y = MatMul(r, w) }"
    models = [build(wide, normal(v=(3, size), w=(size, 1))) for size in (4, 5)]
    task = Task("t", kind="regression")
    found = evaluate([], ROWS, ROWS[:, 0], tasks=[task], parents=models, baseline="average")
    assert found.baseline is None
    assert found.models[0].scaled == (None,)
    assert "no plain average of the parents" in found.notes[0]
    assert evaluate([], ROWS, ROWS[:, 0], tasks=[task], parents=models[:1], baseline="average").notes


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    for shade, name in ((0, "dark/1.png"), (30, "dark/2.png"), (200, "light/3.png"), (100, "light/4.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2), shade).save(tmp_path / name)
    brightness = build(
        "(float[n,1,2,2] x) => (float[n,2] y)"
        " { m = GlobalAveragePool(x) f = Flatten(m) g = MatMul(f, w) y = Add(g, b) }",
        {"w": np.array([[0.0, 1]], np.float32), "b": np.array([0.5, 0], np.float32)},
    )
    assert top(evaluate(brightness, tmp_path), 0, 0) == 0.75
    assert top(evaluate(brightness, tmp_path, tmp_path), 0, 0) == 0.75
    with pytest.raises(UsageError, match="give it as the data too"):
        evaluate(brightness, np.zeros((4, 1, 2, 2), np.float32), tmp_path)


def test_the_data_is_read_once_for_all_models() -> None:
    batches = iter([{"x": ROWS[:30]}, {"x": ROWS[30:]}])
    models = {"one": linear(np.eye(3)), "two": linear(np.eye(3))}
    found = evaluate(models, batches, ROWS.argmax(axis=1), batch_size=7)
    assert [top(found, index, 0) for index in range(2)] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"labels": None}, UsageError, "give the labels"),
        ({"top_k": (0,)}, UsageError, "top-k takes whole numbers"),
        ({"baseline": "best"}, UsageError, "no baseline 'best'"),
        ({"models": []}, UsageError, "no model to evaluate"),
        ({"tasks": [Task("a"), Task("a")]}, UsageError, "names of their own"),
        ({"parents": [linear(np.eye(3))], "tasks": [Task("a"), Task("b")]}, UsageError, "1 parents and 2 tasks"),
        ({"tasks": [Task("a", vectors=np.eye(3, dtype=np.float32))], "vectors": "v.npy"}, UsageError, "have no use"),
        ({"outputs": "embedding"}, UsageError, "an embedding needs class vectors"),
        ({"outputs": "z=logits"}, UsageError, "there is no output 'z'; there is y"),
        ({"outputs": "probabilities"}, InputError, "expected probabilities from 0 to 1, as --outputs says"),
        ({"labels": np.zeros(39, int)}, InputError, "more samples than labels"),
        ({"data": np.zeros((40, 4), np.float32)}, InputError, "expected, found shape"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    given = {"models": linear(np.eye(3)), "data": ROWS, "labels": np.zeros(40, int), **arguments}
    with pytest.raises(error, match=says):
        evaluate(**given)


SCORE_PY = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from score import load, run, score
folder = pathlib.Path(sys.argv[2])
pair = json.loads((folder / "pair.json").read_text())
images, labels = load(pair["data"], "test")
images, labels = images[::20], labels[::20]
features = [run(folder / name, images) for name in ("a.onnx", "b.onnx")]
np.savez(sys.argv[3], images=images, labels=labels)
print(json.dumps([score(pair, own, labels) for own in (features[:1], features[1:], features)]))
"""


def independent(shared: Path, folder: Path, target: Path) -> list[dict[str, float | None]]:
    command = [sys.executable, "-c", SCORE_PY, str(shared / "tools"), str(folder), str(target)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: list[dict[str, float | None]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "pair",
    [
        "mnist-mlp",
        pytest.param("cifar5-resnet20", marks=pytest.mark.slow),
        pytest.param("cifar5-vit", marks=pytest.mark.slow),
    ],
)
def test_agrees_exactly_with_the_independent_scorer(shared: Path, tmp_path: Path, pair: str) -> None:
    folder, data = shared / "pairs" / pair, tmp_path / "data.npz"
    expected = independent(shared, folder, data)
    parents = [folder / "a.onnx", folder / "b.onnx"]
    found = evaluate([], data, data, tasks=folder / "pair.json", parents=parents, provider="cpu")
    for index, (model, wanted) in enumerate(zip(found.models[:3], expected, strict=True)):
        scores = model.scores
        assert (top(found, index, 0), top(found, index, 1)) == (wanted["ta"], wanted["tb"])
        assert scores.average == (wanted["avg"],)
        assert (None if scores.joint is None else scores.joint.top[0]) == wanted["joint"]
