from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxmerge.evaluation.ensemble import ensemble
from onnxmerge.evaluation.heads import answer
from onnxmerge.evaluation.labels import read_labels
from onnxmerge.evaluation.scorer import Scorer, Scores
from onnxmerge.evaluation.task import Task
from onnxmerge.evaluation.truth import truth

AXES = np.eye(4, dtype=np.float32)
TASKS = [Task("low", row_of={0: 0, 1: 1}, vectors=AXES[:2]), Task("high", row_of={7: 0, 9: 1}, vectors=AXES[2:])]


def together(parents: list[Any], labels: list[int]) -> Scores:
    scorer = Scorer(TASKS, truth(TASKS, read_labels(np.array(labels))))
    answers = [[answer(task, np.array(embeddings), "y") for task in TASKS] for embeddings in parents]
    scorer.update(ensemble(TASKS, answers, [(0,), (1,)]))
    return scorer.scores()


def test_each_parent_is_asked_about_its_own_task() -> None:
    first = [[1, 0, 0, 0], [0, 1, 0, 0], [0.71, 0.7, 0, 0], [0.7, 0.7, 0, 0]]
    second = [[0, 0, 0.7, 0.7], [0, 0, 0.7, 0.7], [0, 0, 1, 0], [0, 0, 0, 1]]
    found = together([first, second], [0, 1, 7, 9])
    assert found.average == (1.0,)
    assert found.joint is not None
    assert found.joint.top == (1.0,)


def test_confidence_is_compared_not_cosine() -> None:
    # The first parent is far from all its vectors but sure which is nearest; the second is near to two at once.
    first, second = [[0.2, 0, 0.98, 0]] * 4, [[0, 0, 0.7, 0.7]] * 4
    joint = together([first, second], [0, 0, 0, 7]).joint
    assert joint is not None
    assert joint.top == (0.75,)


def test_parents_of_one_task_average_their_probabilities() -> None:
    tasks = [Task("t"), Task("depth", kind="regression")]
    sure, torn = np.log([[0.8, 0.2]]), np.log([[0.3, 0.7]])
    found = ensemble(tasks, [[sure, np.array([[1.0]])], [torn, np.array([[3.0]])]], [(0, 1), (0, 1)])
    assert found[0] is not None
    np.testing.assert_allclose(np.exp(found[0]), [[0.55, 0.45]])
    assert found[1] is not None
    assert found[1].tolist() == [[2.0]]


def test_outputs_with_a_threshold_are_averaged_as_they_are() -> None:
    task = Task("wake", threshold=0.5)
    answers = [[answer(task, np.array([[value]]), "y")] for value in (0.95, 0.1)]
    (found,) = ensemble([task], answers, [(0,), (0,)])
    assert found is not None
    np.testing.assert_allclose(np.diff(found), 0.525 - 0.5)


def test_a_task_that_nobody_learned() -> None:
    assert ensemble([Task("a"), Task("b")], [[np.eye(2), np.eye(2)]], [(0,)])[1] is None


@pytest.mark.parametrize("learned", [[(0,), (1,)], [(1,), (0,)]])
def test_who_learned_what_decides(learned: list[tuple[int, ...]]) -> None:
    answers = [[np.full((1, 2), parent), np.full((1, 2), parent)] for parent in (1.0, 2.0)]
    tasks = [Task("a", kind="regression"), Task("b", kind="regression")]
    found = [float(one[0, 0]) for one in ensemble(tasks, answers, learned) if one is not None]
    assert found == ([1, 2] if learned[0] == (0,) else [2, 1])
