"""``--answer ensemble``: the last layer solved for what the parents say together, through the command line."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from scipy.special import softmax

from onnxmerge.api import evaluate, merge
from onnxmerge.evaluation.task_file import read_tasks
from onnxmerge.model.read import read_network
from onnxmerge.model.session import open_session
from tests.command_line import Cli
from tests.graphs import build, initializers, normal


def test_class_vectors_bring_the_merge_near_the_ensemble(digits: Path) -> None:
    parents = [digits / "a.onnx", digits / "b.onnx"]
    tasks = read_tasks(digits / "task.json")
    found = {
        answer: merge(
            parents,
            calibration=digits / "calib.npz",
            samples=400,
            tasks=tasks if answer == "ensemble" else None,
            method="act-align",
            answer=answer,
        )
        for answer in ("mean", "ensemble")
    }
    scores = evaluate(found, digits / "test.npz", digits / "test.npz", tasks=tasks, parents=parents)
    joint = {row.name: row.scores.joint.top[0] for row in scores.models if row.scores.joint is not None}
    assert joint["ensemble"] > joint["mean"] + 0.15
    (told,) = found["ensemble"].report.answers
    assert told.meaning.meaning == "embedding"
    assert "class vectors" in told.meaning.why
    assert told.after is not None
    assert told.before is not None
    assert told.after > told.before
    assert not found["mean"].report.answers


@pytest.mark.parametrize("refine", ["none", "ls"])
def test_equal_parents_keep_their_answer(digits: Path, refine: str) -> None:
    options: dict[str, Any] = {
        "method": "act-align",
        "refine": refine,
        "calibration": digits / "calib.npz",
        "samples": 100,
    }
    results = [merge([digits / "a.onnx"] * 2, **options, answer=answer) for answer in ("mean", "ensemble")]
    (told,) = results[1].report.answers
    assert told.form == "as it was"
    for name in results[0].weights:
        np.testing.assert_array_equal(results[0].weights[name], results[1].weights[name])


def classifier(seed: int) -> onnx.ModelProto:
    """A classifier of the sign pattern of two numbers, with a hidden layer of its own and some noise in its logits."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(32, 2)).astype(np.float32)
    x = rng.normal(size=(2000, 2)).astype(np.float32)
    h = np.maximum(x @ hidden.T, 0)
    right = (x[:, 0] > 0).astype(int) * 2 + (x[:, 1] > 0)
    top, *_ = np.linalg.lstsq(h, 6 * np.eye(4)[right] - 1.5, rcond=None)
    graph = "(float[n,2] x) => (float[n,4] y) { a = Gemm<transB=1>(x, w1) h = Relu(a) y = Gemm<transB=1>(h, w2, b2) }"
    weights = {"w1": hidden, "w2": top.T.astype(np.float32), **normal(b2=(4,), seed=seed, scale=0.1)}
    return build(graph, weights)


def test_logits_agree_better_with_the_averaged_probabilities() -> None:
    parents = [classifier(1), classifier(2)]
    data = np.random.default_rng(9).normal(size=(1500, 2)).astype(np.float32)
    every: tuple[dict[str, Any], ...] = ({}, {"answer": "ensemble", "outputs": "logits"})
    both = [merge(parents, calibration=data, method="act-align", repair="none", **asked) for asked in every]
    fresh = np.random.default_rng(10).normal(size=(2000, 2)).astype(np.float32)
    right = (fresh[:, 0] > 0).astype(int) * 2 + (fresh[:, 1] > 0)
    correct = []
    for result in both:
        session = open_session(result.template.model, weights=result.weights)
        correct.append((session.run({"x": fresh})["y"].argmax(axis=1) == right).mean())
    (told,) = both[1].report.answers
    assert told.form.startswith("probabilities averaged")
    assert correct[1] >= correct[0]


def blobs(samples: int, seed: int) -> tuple[Any, Any]:
    """Points [samples, 8] around six centres, and which centre each is of."""
    rng, centres = np.random.default_rng(seed), 1.2 * np.random.default_rng(0).normal(size=(6, 8))
    right = rng.integers(0, 6, samples)
    return (centres[right] + rng.normal(size=(samples, 8))).astype(np.float32), right


@cache
def uneven(index: int, sure: float, end: str) -> onnx.ModelProto:
    """A classifier of ``blobs`` that has seen a 25th of every other class, by logistic regression on random features.

    Its logits are multiplied by ``sure``.
    """
    rng = np.random.default_rng(index)
    hidden = np.random.default_rng(1).normal(size=(24, 8)).astype(np.float32)
    x, right = blobs(3000, 10 + index)
    kept = rng.random(len(x)) < np.where(right % 2 == index, 1.0, 0.04)
    h, right = np.c_[np.maximum(x[kept] @ hidden.T, 0), np.ones(kept.sum())], right[kept]
    top = np.zeros((25, 6))
    for _ in range(300):
        top -= 0.02 * h.T @ (softmax(h @ top, axis=1) - np.eye(6)[right]) / len(h)
    weights = {"w1": hidden, "w2": (sure * top[:-1].T).astype(np.float32), "b2": (sure * top[-1]).astype(np.float32)}
    graph = "(float[n,8] x) => (float[n,6] y) { a = Gemm<transB=1>(x, w1) h = Relu(a) "
    return build(f"{graph} z = Gemm<transB=1>(h, w2, b2) y = {end}(z) }}", weights)


@pytest.mark.parametrize(
    ("end", "sure", "least"), [("Identity", 1, 0.93), ("Identity", 4, 0.87), ("Softmax", 1, 0.93), ("Softmax", 4, 0.87)]
)
def test_parents_that_are_sure_of_other_classes_answer_together(end: str, sure: float, least: float) -> None:
    parents = [uneven(index, sure, end) for index in range(2)]
    asked: dict[str, Any] = {} if end == "Softmax" else {"outputs": "logits"}
    result = merge(parents, calibration=blobs(2000, 50)[0], method="average", repair="none", answer="ensemble", **asked)
    fresh, _ = blobs(4000, 51)
    each = [open_session(read_network(parent).model).run({"x": fresh})["y"] for parent in parents]
    together = np.mean([own if end == "Softmax" else softmax(own, axis=1) for own in each], axis=0)
    found = open_session(result.template.model, weights=result.weights).run({"x": fresh})["y"]
    assert (found.argmax(axis=1) == together.argmax(axis=1)).mean() >= least
    (told,) = result.report.answers
    assert told.form.startswith("probabilities averaged")


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("opposed", [False, True])
def test_a_merge_that_is_less_than_one_of_its_parents_is_said_to_be(count: int, *, opposed: bool) -> None:
    parents = [uneven(index, 1, "Softmax") for index in range(count)]
    if opposed:  # a mean of hidden weights that computes nothing
        weights = {**initializers(parents[1]), "w1": (1 - count) * initializers(parents[1])["w1"]}
        graph = "(float[n,8] x) => (float[n,6] y) { a = Gemm<transB=1>(x, w1) h = Relu(a) "
        parents[1] = build(f"{graph} z = Gemm<transB=1>(h, w2, b2) y = Softmax(z) }}", weights)
    result = merge(parents, calibration=blobs(2000, 50)[0], method="average", repair="none", answer="ensemble")
    (told,) = result.report.answers
    said = [note for note in result.report.notes if "agrees with the parents' ensemble less" in note]
    assert len(told.parents) == count
    assert told.after is not None
    assert bool(said) == opposed == (max(told.parents) > told.after)
    assert all(f"{max(told.parents):.4f}" in note and "--width" in note and "--weights auto" in note for note in said)


def test_the_summary_says_what_the_output_is(digits: Path, cli: Cli, tmp_path: Path) -> None:
    command = ["run", digits / "a.onnx", digits / "b.onnx", "--calib", digits / "calib.npz", "--samples", 100]
    command += ["--method", "act-align"]
    ended = cli(*command, "--answer", "ensemble", "-o", "m.onnx", "--json", "m.json")
    assert ended.returncode == 0, ended.stderr
    told = " ".join(ended.stdout.split())
    assert "embedding: embedding (a guess:" in told
    assert "its mean kept" in told
    (found,) = json.loads((tmp_path / "m.json").read_text())["answers"]
    assert found["meaning"]["guessed"] is True
    wrong = cli(*command, "--answer", "ensemble", "--outputs", "scores", "-o", "n.onnx")
    assert wrong.returncode == 2
    assert "'scores' is none of" in wrong.stderr
    read_network(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--answer", "ensemble", "--method", "rebasin"), "give calibration data"),
        (("--outputs", "logits", "--method", "rebasin"), "--outputs says what is measured: give calibration data"),
        (("--output-mean", "drop", "--method", "rebasin"), "--output-mean is for --answer ensemble"),
        (("--answer", "ensemble", "--calib", "CALIB", "--method", "ties", "--base", "A"), "adds to a base"),
        (("--answer", "ensemble", "--calib", "CALIB", "--outputs", "nose=logits"), "no output 'nose'"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    arguments: tuple[str, ...], said: str, digits: Path, cli: Cli, tmp_path: Path
) -> None:
    files = {"CALIB": digits / "calib.npz", "A": digits / "a.onnx"}
    ended = cli(
        "run", digits / "a.onnx", digits / "b.onnx", "-o", "m.onnx", *(files.get(each, each) for each in arguments)
    )
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert not (tmp_path / "m.onnx").exists()


def test_heads_that_are_apart_answer_for_themselves(digits: Path) -> None:
    parents = [digits / "a.onnx", digits / "b.onnx"]
    asked: dict[str, Any] = {"samples": 100, "method": "act-align", "heads": "separate", "answer": "ensemble"}
    found = merge(parents, calibration=digits / "calib.npz", **asked)
    assert not found.report.answers
    assert any("heads are apart" in note for note in found.report.notes)
