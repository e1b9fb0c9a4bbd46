"""``run --labels`` with text-vector heads, several tasks and regressions, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from onnxmerge import evaluate
from onnxmerge.cli.main import commands
from onnxmerge.errors import OnnxmergeError
from tests.graphs import build, execute, normal

NET = "(float[n,6] x) => (float[n,4] y) { h = Gemm<transB=1>(x, w1, b1) r = Relu(h) y = MatMul(r, w2) }"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["run", *map(str, arguments)], standalone_mode=False, catch_exceptions=True)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[onnx.ModelProto]:
    """Two networks, data, labels by the second, and targets, in the current folder."""
    monkeypatch.chdir(tmp_path)
    models = [build(NET, normal(w1=(8, 6), b1=(8,), w2=(8, 4), seed=seed)) for seed in (1, 2)]
    x = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)
    words = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    for name, model in zip("ab", models, strict=True):
        onnx.save(model, f"{name}.onnx")
    found = execute(models[1], {"x": x})["y"]
    np.save("x.npy", x)
    np.save("words.npy", words)
    np.save("labels.npy", (found @ words.T).argmax(axis=1))
    np.save("targets.npy", found)
    return models


def searched(*arguments: object) -> tuple[dict[str, Any], str]:
    given = ("--method", "auto", "--repair", "none", "--refine", "none", "-o", "m.onnx", "--json", "r.json")
    done = run("a.onnx", "b.onnx", "--calib", "x.npy", *given, *arguments)
    assert done.exit_code == 0, done.exception
    found: dict[str, Any] = json.loads(Path("r.json").read_text())["search"]
    return found, done.output


def chosen(search: dict[str, Any]) -> float:
    found: float = search["candidates"][search["chosen"]]["accuracy"]
    return found


@pytest.mark.usefixtures("pair")
def test_text_vectors_decide_and_can_be_written_down() -> None:
    search, shown = searched("--labels", "labels.npy", "--vectors", "words.npy", "--save-recipe", "r.yaml")
    assert "chosen by accuracy on 100 held-out samples" in shown
    held = np.load("x.npy")[4::5], np.load("labels.npy")[4::5]
    (score,) = evaluate("m.onnx", *held, vectors="words.npy").models[0].scores.tasks
    assert score is not None
    assert chosen(search) == pytest.approx(score.top[0])  # type: ignore[union-attr]
    before = Path("m.onnx").read_bytes()
    assert "vectors: words.npy" in Path("r.yaml").read_text()
    assert run("r.yaml").exit_code == 0
    assert Path("m.onnx").read_bytes() == before


@pytest.mark.usefixtures("pair")
def test_tasks_of_a_line_each_can_be_written_down() -> None:
    given = ("--labels", "labels.npy", "--task", "low=0-1", "--task", "high=2-3")
    search, _ = searched(*given, "--save-recipe", "r.yaml")
    assert search["criterion"] == "accuracy"
    Path("m.onnx").unlink()
    assert run("r.yaml", "--json", "again.json").exit_code == 0
    assert json.loads(Path("again.json").read_text())["search"] == search


def test_a_regression_decides(pair: list[onnx.ModelProto]) -> None:
    for near, own in zip(pair[0].graph.initializer, pair[1].graph.initializer, strict=True):  # both know the task
        values = numpy_helper.to_array(own) + 0.2 * numpy_helper.to_array(near)
        near.CopyFrom(numpy_helper.from_array(values.astype(np.float32), near.name))
    onnx.save(pair[0], "a.onnx")
    search, shown = searched("--labels", "targets.npy", "--regression")
    assert search["criterion"] == "scaled score"
    assert "chosen by scaled score on 100 held-out samples" in shown
    x, targets = np.load("x.npy")[4::5], np.load("targets.npy")[4::5]
    lowest = np.square(targets - targets.mean(axis=0)).mean()
    losses = [np.square(execute(model, {"x": x})["y"] - targets).mean() for model in (*pair, onnx.load("m.onnx"))]
    expected = (lowest - losses[2]) / (lowest - (losses[0] + losses[1]) / 2)
    assert chosen(search) == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--vectors", "words.npy"), 2, "give the labels too"),
        (("--labels", "labels.npy", "--task", "low"), 2, "expected NAME=LABELS"),
        (("--labels", "labels.npy", "--task", "a=0", "--regression"), 2, "not from several"),
        (("--labels", "labels.npy", "--tasks", "nosuch.yaml"), 1, "nosuch.yaml"),
        (("--labels", "labels.npy", "--task", "a=0-9"), 1, "has 4 columns, task 'a' has 10 classes"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: tuple[object, ...], code: int, says: str) -> None:
    done = run("a.onnx", "b.onnx", "--calib", "x.npy", "--method", "auto", "-o", "m.onnx", *arguments)
    assert isinstance(done.exception, OnnxmergeError)
    assert done.exception.exit_code == code
    assert says in str(done.exception)
    assert not Path("m.onnx").exists()


def test_the_digits_by_their_task_file(digits: Path, tmp_path: Path) -> None:
    """Only the plumbing is tested: no figure comes of choosing by the images that test."""
    with np.load(digits / "test.npz") as arrays:
        images, labels = arrays["images"][:300], arrays["labels"][:300]
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    data, tasks = tmp_path / "data.npz", digits / "task.json"
    done = run(
        *(digits / "a.onnx", digits / "b.onnx", "--calib", data, "--labels", data, "--tasks", tasks),
        *("--method", "act-align", "--refine", "none", "--json", tmp_path / "r.json"),
        *("-o", tmp_path / "m.onnx", "--provider", "cpu"),
    )
    assert done.exit_code == 0, done.exception
    repairs = json.loads((tmp_path / "r.json").read_text())["repairs"]
    scores = evaluate(tmp_path / "m.onnx", images[4::5], labels[4::5], tasks=tasks).models[0].scores
    assert scores.average is not None
    assert max(each["accuracy"] for each in repairs) == pytest.approx(scores.average[0])
    assert len(repairs) > 2
