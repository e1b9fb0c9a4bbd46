from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from onnxmerge.evaluation.ensemble import ensemble, mild_ensemble
from onnxmerge.evaluation.heads import Answers, answer
from onnxmerge.evaluation.labels import read_labels
from onnxmerge.evaluation.scorer import Scorer, Scores
from onnxmerge.evaluation.task import Task
from onnxmerge.evaluation.truth import truth
from onnxmerge.merging.answer.ensemble import COSINE_TEMPERATURE

AXES = np.eye(4, dtype=np.float32)
TASKS = [Task("low", row_of={0: 0, 1: 1}, vectors=AXES[:2]), Task("high", row_of={7: 0, 9: 1}, vectors=AXES[2:])]


def embedding(*given: Any) -> Answers:
    return Answers(given, ["embedding"] * len(given), ["y"] * len(given))


def logits(*given: Any, regression: Any = None) -> Answers:
    """Answers of logits from one output, and of a regression behind them."""
    if regression is None:
        return Answers(given, ["logits"] * len(given), ["y"] * len(given))
    return Answers([*given, regression], [*["logits"] * len(given), None], ["y"] * (len(given) + 1))  # type: ignore[list-item]


def together(parents: list[Any], labels: list[int]) -> Scores:
    scorer = Scorer(TASKS, truth(TASKS, read_labels(np.array(labels))))
    answers = [[answer(task, np.array(embeddings), "y") for task in TASKS] for embeddings in parents]
    scorer.update(ensemble(TASKS, [embedding(*given) for given in answers], [(0,), (1,)]))
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
    parents = [logits(sure, regression=np.array([[1.0]])), logits(torn, regression=np.array([[3.0]]))]
    found = ensemble(tasks, parents, [(0, 1), (0, 1)])
    assert found[0] is not None
    np.testing.assert_allclose(np.exp(found[0]), [[0.55, 0.45]])
    assert found[1] is not None
    assert found[1].tolist() == [[2.0]]


def test_outputs_with_a_threshold_are_averaged_as_they_are() -> None:
    task = Task("wake", threshold=0.5)
    given = [answer(task, np.array([[value]]), "y") for value in (0.95, 0.1)]
    (found,) = ensemble([task], [Answers([each], ["probabilities"], ["y"]) for each in given], [(0,), (0,)])
    assert found is not None
    np.testing.assert_allclose(np.exp(found), [[0.475, 0.525]])


def test_a_task_that_nobody_learned() -> None:
    for form in (ensemble, mild_ensemble):
        assert form([Task("a"), Task("b")], [logits(np.eye(2), np.eye(2))], [(0,)])[1] is None


@pytest.mark.parametrize("learned", [[(0,), (1,)], [(1,), (0,)]])
def test_who_learned_what_decides(learned: list[tuple[int, ...]]) -> None:
    parents = [Answers([np.full((1, 2), parent)] * 2, [None] * 2, ["y"] * 2) for parent in (1.0, 2.0)]
    tasks = [Task("a", kind="regression"), Task("b", kind="regression")]
    for form in (ensemble, mild_ensemble):
        found = [float(one[0, 0]) for one in form(tasks, parents, learned) if one is not None]
        assert found == ([1, 2] if learned[0] == (0,) else [2, 1])


def test_probabilities_are_averaged_as_they_are() -> None:
    given = [Answers([np.array([row])], ["probabilities"], ["y"]) for row in ([0.9, 0.1], [0.2, 0.8])]
    for form in (ensemble, mild_ensemble):
        (found,) = form([Task("t")], given, [(0,), (0,)])
        assert found is not None
        np.testing.assert_allclose(np.exp(found), [[0.55, 0.45]])


def chances(values: Sequence[float], temperature: float) -> Any:
    return softmax(np.array([values]) / temperature, axis=1)


def test_the_mild_ensemble_of_logits_averages_probabilities_as_a_merge_is_judged() -> None:
    one, other = [3.0, 0, 0], [0.0, 2, 1]
    (found,) = mild_ensemble([Task("t")], [logits(np.array([one])), logits(np.array([other]))], [(0,), (0,)])
    assert found is not None
    np.testing.assert_allclose(np.exp(found), (chances(one, 2) + chances(other, 2)) / 2)


def test_the_mild_ensemble_of_embeddings_is_milder_and_over_all_that_a_parent_learned() -> None:
    # The first parent learned both tasks, the second the third.
    tasks = [*TASKS, Task("other", row_of={3: 0, 4: 1}, vectors=AXES[:2])]
    first = [np.array([[0.9, 0.1]]), np.array([[0.4, 0.2]]), np.array([[0.9, 0.1]])]
    second = [np.array([[0.7, 0.6]]), np.array([[0.0, 0.3]]), np.array([[0.7, 0.6]])]
    low, high, other = mild_ensemble(tasks, [embedding(*first), embedding(*second)], [(0, 1), (2,)])
    expected = chances([0.9, 0.1, 0.4, 0.2], COSINE_TEMPERATURE)
    assert low is not None
    assert high is not None
    np.testing.assert_allclose(np.exp(np.concatenate([low, high], axis=1)), expected)
    assert other is not None
    np.testing.assert_allclose(np.exp(other), chances([0.7, 0.6], COSINE_TEMPERATURE))
    plain = ensemble(tasks, [embedding(*first), embedding(*second)], [(0, 1), (2,)])[2]
    assert plain is not None
    np.testing.assert_allclose(np.exp(plain), chances([0.7, 0.6], 0.01))


def test_outputs_of_one_parent_know_nothing_of_each_other() -> None:
    parent = Answers([np.array([[2.0, 0]]), np.array([[0.0, 4]])], ["logits"] * 2, ["y", "z"])
    for found, values in zip(mild_ensemble([Task("a"), Task("b")], [parent], [(0, 1)]), ([2, 0], [0, 4]), strict=True):
        assert found is not None
        np.testing.assert_allclose(np.exp(found), chances(values, 2))
