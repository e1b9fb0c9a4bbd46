from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.evaluation.heads import answer
from onnxmerge.evaluation.intervals import wilson
from onnxmerge.evaluation.labels import read_labels
from onnxmerge.evaluation.scorer import Accuracy, Regression, Scorer, Scores, Sureness
from onnxmerge.evaluation.task import Task
from onnxmerge.evaluation.truth import truth

AXES: NDArray[np.float32] = np.eye(4, dtype=np.float32)
LOW = Task("low", row_of={0: 0, 1: 1}, vectors=AXES[:2])
HIGH = Task("high", row_of={7: 0, 9: 1}, vectors=AXES[2:])


def score(embeddings: Any, labels: Any, *tasks: Task, batch: int = 100) -> Scores:
    scorer = Scorer(tasks, truth(tasks, read_labels(np.array(labels))))
    for start in range(0, len(embeddings), batch):
        scorer.update([answer(task, np.asarray(embeddings)[start : start + batch], "y") for task in tasks])
    return scorer.scores()


def rates(found: Scores) -> list[float | None]:
    top = [score.top[0] if isinstance(score, Accuracy) else None for score in found.tasks]
    return [*top, None if found.joint is None else found.joint.top[0]]


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_perfect_embeddings_of_any_length(batch: int) -> None:
    embeddings = AXES * np.array([[0.1], [1], [10], [100]], np.float32)
    assert rates(score(embeddings, [0, 1, 7, 9], LOW, HIGH, batch=batch)) == [1, 1, 1]


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_joint_counts_answers_from_the_wrong_task(batch: int) -> None:
    embeddings = AXES.copy()
    embeddings[0] = [0.5, 0, 0.9, 0]  # right among 0 and 1, but nearest to 7
    embeddings[3] = [0, 0, 0.9, 0.5]  # wrong anyway
    found = score(embeddings, [0, 1, 7, 9], LOW, HIGH, batch=batch)
    assert rates(found) == [1, 0.5, 0.5]
    assert found.average == (0.75,)


def test_two_labellings_of_the_same_samples_have_no_joint() -> None:
    even = Task("even", row_of={0: 0, 1: 1, 2: 0, 3: 1}, vectors=AXES[:2])
    small = Task("small", row_of={0: 0, 1: 0, 2: 1, 3: 1}, vectors=AXES[2:])
    embeddings = [[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1]]
    assert rates(score(embeddings, range(4), even, small)) == [0.75, 1, None]


def test_labels_of_no_task_are_wrong_in_joint_and_ignored_elsewhere() -> None:
    embeddings = np.concatenate([AXES, AXES[:1]])
    assert rates(score(embeddings, [0, 1, 7, 9, 5], LOW, HIGH)) == [1, 1, 0.8]


def test_samples_without_a_label_count_nowhere() -> None:
    found = score(np.concatenate([AXES, AXES[:1]]), [0, 1, 7, 9, -1], LOW, HIGH)
    assert rates(found) == [1, 1, 1]
    assert found.joint is not None
    assert found.joint.samples == 4


def test_a_task_without_an_answer() -> None:
    scorer = Scorer([LOW, HIGH], truth([LOW, HIGH], read_labels(np.array([0, 7]))))
    scorer.update([np.eye(2), None])
    found = scorer.scores()
    assert found == Scores((Accuracy((1.0,), 1, (wilson(1, 1),)), None), None, None)


def test_a_regression_without_an_answer_leaves_the_average_of_the_others() -> None:
    tasks = [Task("kind"), Task("depth", kind="regression")]
    labels = read_labels({"kind": np.array([1, 0]), "depth": np.array([1.0, 2])})
    scorer = Scorer(tasks, truth(tasks, labels))
    scorer.update([np.eye(2), None])
    none = (wilson(0, 2),)
    assert scorer.scores() == Scores((Accuracy((0.0,), 2, none), None), (0.0,), None, none)


def test_regression_beside_classification() -> None:
    tasks = [Task("kind"), Task("depth", kind="regression")]
    labels = read_labels({"kind": np.array([1, 0]), "depth": np.array([[1.0, 2], [3, 4]])})
    scorer = Scorer(tasks, truth(tasks, labels))
    scorer.update([np.array([[0.0, 1]]), np.array([[1.0, 4]])])
    scorer.update([np.array([[0.0, 1]]), np.array([[0.0, 4]])])
    found = scorer.scores()
    kind, depth = found.tasks
    assert kind == Accuracy((0.5,), 2, (wilson(1, 2),))
    assert isinstance(depth, Regression)
    assert (depth.absolute, depth.squared, depth.samples) == ((1.5, 1.0), (4.5, 2.0), 2)
    assert depth.absolute_intervals[0] == pytest.approx((0.0, 1.5 + 1.959964 * 1.5))
    assert found.average == (0.5,)
    assert isinstance(found.tasks[1], Regression)
    assert found.tasks[1].loss("absolute") == 1.25


@pytest.mark.parametrize(("apart", "confidence"), [(False, 0.45), (True, 0.9)])
def test_how_sure_a_model_is_among_all_classes(apart: bool, confidence: float) -> None:  # noqa: FBT001
    # By one output over all classes; by two that know nothing of each other, as sure as the one that answers.
    scorer = Scorer([LOW, HIGH], truth([LOW, HIGH], read_labels(np.array([0, 7]))))
    chances = [np.array([[0.9, 0.1]] * 2), np.array([[0.8, 0.2]] * 2)]
    scorer.update(chances, Sureness([np.log(each) for each in chances], apart=apart))
    found = scorer.scores()
    assert [score.calibration_error for score in found.tasks if isinstance(score, Accuracy)] == pytest.approx(
        [0.1, 0.2]
    )
    assert found.average_calibration_error == pytest.approx(0.15)
    assert found.joint is not None
    assert found.joint.top == (0.5,)
    assert found.joint.calibration_error == pytest.approx(abs(0.5 - confidence))


def test_tasks_of_the_same_samples_have_an_average_that_may_move_with_both() -> None:
    even, same = (Task(name, row_of={0: 0, 1: 1}, vectors=AXES[:2]) for name in ("even", "same"))
    found = score(AXES[:2], [0, 0], even, same)
    assert found.average_intervals is not None
    assert found.average_intervals[0] == pytest.approx(wilson(1, 2))


def test_other_numbers_of_samples_than_of_labels() -> None:
    with pytest.raises(InputError, match=r"there are more samples than labels \(3\)"):
        score(AXES, [0, 1, 7], LOW, HIGH)
    with pytest.raises(InputError, match="there are 4 samples and 5 labels"):
        score(AXES, [0, 1, 7, 9, 0], LOW, HIGH)


def test_labels_beyond_the_classes_of_the_model() -> None:
    with pytest.raises(InputError, match=r"task 't' has label 9, the model tells 4 classes apart \(from 0\)"):
        score(AXES, [0, 1, 2, 9], Task("t"))


def test_more_columns_than_targets() -> None:
    with pytest.raises(InputError, match="task 't' has 1 targets for each sample, the output 4 columns"):
        score(AXES, [0, 1, 2, 9], Task("t", kind="regression"))


def test_outputs_of_different_lengths() -> None:
    scorer = Scorer([LOW, HIGH], truth([LOW, HIGH], read_labels(np.array([0, 7]))))
    with pytest.raises(InputError, match=r"the outputs for one batch have \[1, 2\] rows"):
        scorer.update([np.eye(2), np.zeros((1, 2))])
