from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.evaluation.accuracy import Scores, cosines, score, score_ensemble
from onnxmerge.evaluation.task import Task

AXES: NDArray[np.float32] = np.eye(4, dtype=np.float32)
LOW = Task("low", AXES[:2], {0: 0, 1: 1})
HIGH = Task("high", AXES[2:], {7: 0, 9: 1})
LABELS = np.array([0, 1, 7, 9])


def test_perfect_embeddings_of_any_length() -> None:
    embeddings = AXES * np.array([[0.1], [1], [10], [100]], np.float32)
    assert score(embeddings, LABELS, [LOW, HIGH], disjoint=True) == Scores((1.0, 1.0), 1.0)


def test_joint_counts_answers_from_the_wrong_task() -> None:
    embeddings = AXES.copy()
    embeddings[0] = [0.5, 0, 0.9, 0]  # right among 0 and 1, but nearest to 7
    embeddings[3] = [0, 0, 0.9, 0.5]  # wrong anyway
    result = score(embeddings, LABELS, [LOW, HIGH], disjoint=True)
    assert result == Scores((1.0, 0.5), 0.5)
    assert result.average == 0.75


def test_two_labellings_of_the_same_samples_have_no_joint() -> None:
    even = Task("even", AXES[:2], {0: 0, 1: 1, 2: 0, 3: 1})
    small = Task("small", AXES[2:], {0: 0, 1: 0, 2: 1, 3: 1})
    embeddings = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1]], np.float32)
    assert score(embeddings, np.arange(4), [even, small], disjoint=False) == Scores((0.75, 1.0), None)


def test_the_ensemble_asks_each_parent_about_its_own_task() -> None:
    first = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.71, 0.7, 0, 0], [0.7, 0.7, 0, 0]], np.float32)
    second = np.array([[0, 0, 0.7, 0.7], [0, 0, 0.7, 0.7], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)
    assert score_ensemble([first, second], LABELS, [LOW, HIGH], disjoint=True) == Scores((1.0, 1.0), 1.0)


def test_the_ensemble_compares_confidence_not_cosine() -> None:
    # The first parent is far from all its vectors but sure which is nearest; the second is near to two at once.
    first = np.array([[0.2, 0, 0.98, 0]] * 4, np.float32)
    second = np.array([[0, 0, 0.7, 0.7]] * 4, np.float32)
    tasks = [LOW, HIGH]
    assert score_ensemble([first, second], np.array([0, 0, 0, 7]), tasks, disjoint=True).joint == 0.75


def test_certainty_beyond_rounding_still_decides() -> None:
    first = np.array([[0.7, 0, 0, 0]] * 2, np.float32)  # cosine 1 with its best vector, 0 with the other
    second = np.array([[0, 0, 1, -0.1], [0, 0, 0.7, 0.7]], np.float32)  # surer still; not sure at all
    assert score_ensemble([first, second], np.array([7, 0]), [LOW, HIGH], disjoint=True).joint == 1


def test_labels_of_no_task_are_wrong_in_joint_and_ignored_elsewhere() -> None:
    embeddings = np.concatenate([AXES, AXES[:1]])
    assert score(embeddings, np.append(LABELS, 5), [LOW, HIGH], disjoint=True) == Scores((1.0, 1.0), 0.8)


def test_an_embedding_of_zeros_is_near_to_nothing() -> None:
    assert cosines(np.zeros((1, 4), np.float32), LOW).tolist() == [[0, 0]]


def test_embeddings_of_the_wrong_width() -> None:
    with pytest.raises(InputError, match=r"shape \(4, 3\), expected \[N, 4\] for task 'low'"):
        score(AXES[:, :3], LABELS, [LOW], disjoint=True)


def test_labels_of_the_wrong_number() -> None:
    with pytest.raises(InputError, match=r"labels have shape \(3,\), expected \[4\]"):
        score(AXES, LABELS[:3], [LOW], disjoint=True)


def test_a_task_without_samples() -> None:
    with pytest.raises(InputError, match="none of the 2 samples has a label of task 'high'"):
        score(AXES[:2], LABELS[:2], [LOW, HIGH], disjoint=True)


def test_an_ensemble_with_a_parent_missing() -> None:
    with pytest.raises(InputError, match="1 embeddings, expected one for each of 2 tasks"):
        score_ensemble([AXES], LABELS, [LOW, HIGH], disjoint=True)


SCORE_PY = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from score import score
data = np.load(sys.argv[2])
pair = json.loads(str(data["pair"]))
one = score(pair, [data["first"]], data["labels"])
both = score(pair, [data["first"], data["second"]], data["labels"])
print(json.dumps([one, both]))
"""


def test_agrees_with_the_independent_scorer(shared: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 200)
    # Vectors close to one another: score.py's softmax is in float32, where certainty beyond 1 - 6e-8 is a tie.
    vectors = (1 + 0.1 * rng.normal(size=(4, 6))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    noisy = (vectors[labels] + 0.1 * rng.normal(size=(2, 200, 6))).astype(np.float32)
    noisy /= np.linalg.norm(noisy, axis=2, keepdims=True)
    classes = [[1, 3], [2, 0]]
    pair = {
        "kind": "classes",
        "tasks": [{"classes": mine, "vectors": vectors[mine].tolist()} for mine in classes],
    }
    np.savez(tmp_path / "data.npz", first=noisy[0], second=noisy[1], labels=labels, pair=json.dumps(pair))
    command = [sys.executable, "-c", SCORE_PY, str(shared / "tools"), str(tmp_path / "data.npz")]
    expected = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    tasks = [Task(str(mine), vectors[mine], {label: row for row, label in enumerate(mine)}) for mine in classes]
    found = [score(noisy[0], labels, tasks, disjoint=True), score_ensemble(list(noisy), labels, tasks, disjoint=True)]
    for result, wanted in zip(found, expected, strict=True):
        assert (result.joint, *result.tasks) == pytest.approx((wanted["joint"], wanted["ta"], wanted["tb"]), abs=1e-12)
