from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.evaluation.heads import Answers, answer, cosines, log_probabilities, logits, on_one_scale, sureness
from onnxmerge.evaluation.task import Task
from onnxmerge.merging.answer.meaning import Meaning

LOGITS: NDArray[np.float32] = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_an_output_as_wide_as_the_classes_has_a_column_for_each() -> None:
    task = Task("high", row_of={5: 0, 6: 1, 7: 2, 8: 3})
    np.testing.assert_array_equal(answer(task, LOGITS, "y"), LOGITS)


def test_a_wider_output_is_read_by_label() -> None:
    np.testing.assert_array_equal(answer(Task("t", row_of={3: 0, 1: 1}), LOGITS, "y"), LOGITS[:, [3, 1]])


def test_columns_by_number() -> None:
    task = Task("t", row_of={7: 0, 9: 1}, columns=(2, 0))
    np.testing.assert_array_equal(answer(task, LOGITS, "y"), LOGITS[:, [2, 0]])


def test_labels_beyond_the_output() -> None:
    with pytest.raises(InputError, match="y: has 4 columns, task 't' has 2 classes; name its columns"):
        answer(Task("t", row_of={3: 0, 7: 1}), LOGITS, "y")


def test_rows_that_several_labels_share_do_not_say_which_column_is_theirs() -> None:
    with pytest.raises(InputError, match="name its columns"):
        answer(Task("odd", row_of={0: 0, 1: 1, 2: 0}), LOGITS, "y")


def test_columns_beyond_the_output() -> None:
    with pytest.raises(InputError, match="has 4 columns; task 't' asks for column 4"):
        answer(Task("t", kind="regression", columns=(0, 4)), LOGITS, "y")


def test_axes_of_one_do_not_matter() -> None:
    assert answer(Task("t"), LOGITS[:, :, None, None], "y").shape == (2, 4)
    assert answer(Task("t", kind="regression"), LOGITS[:, 0], "y").shape == (2, 1)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (np.zeros((2, 3, 4)), r"shape \[2, 3, 4\], expected \[N, width\]"),
        (np.array(1.0), r"shape \[\], expected"),
        (np.array(["cat", "dog"]), "no tensor of numbers"),
        ([{0: 0.5, 1: 0.5}], "no tensor of numbers"),
        (np.zeros((2, 1)), "has one column, which tells no classes apart; give task 't' a threshold"),
    ],
)
def test_outputs_that_are_no_scores(output: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        answer(Task("t"), output, "y")


def test_a_threshold_makes_two_classes_of_one_column() -> None:
    scores = answer(Task("wake", threshold=0.5), np.array([[0.4], [0.6], [0.5]]), "y")
    assert scores.argmax(axis=1).tolist() == [0, 1, 0]
    with pytest.raises(InputError, match="the threshold of task 'wake' is for an output of one"):
        answer(Task("wake", threshold=0.5), LOGITS, "y")


def test_cosines_do_not_depend_on_length() -> None:
    vectors = np.eye(3, dtype=np.float32)[:2]
    found = answer(Task("t", vectors=vectors), np.array([[10.0, 0, 0], [0, 1e-3, 0], [0, 0, 0]]), "y")
    assert found.tolist() == [[1, 0], [0, 1], [0, 0]]


def test_embeddings_of_the_wrong_width() -> None:
    with pytest.raises(InputError, match=r"y: has shape \[2, 4\], expected \[N, 3\] as the vectors"):
        cosines(LOGITS, np.eye(3), "y")


def test_log_probabilities() -> None:
    found = log_probabilities(np.array([[1.0, 2, 3]]))
    np.testing.assert_allclose(np.exp(found).sum(), 1)
    np.testing.assert_allclose(np.diff(found), 1)


def test_certainty_beyond_rounding_still_decides() -> None:
    surer, sure = log_probabilities(np.array([[100.0, -10]])), log_probabilities(np.array([[70.0, 0]]))
    assert surer.max() > sure.max()


VECTORS = Task("t", vectors=np.eye(2, dtype=np.float32))


@pytest.mark.parametrize(
    ("task", "meaning", "scores", "probabilities"),
    [
        (Task("t"), "logits", [0.0, np.log(3)], [0.25, 0.75]),
        (Task("t"), "probabilities", [0.25, 0.75], [0.25, 0.75]),
        (Task("t"), "probabilities", [0.1, 0.3], [0.25, 0.75]),  # one of several tasks in a Softmax
        (Task("t"), "probabilities", [0.0, 1.0], [0, 1]),
        (Task("t", threshold=0.0), "logits", [0.0, np.log(3)], [0.25, 0.75]),
        (Task("t", threshold=0.5), "probabilities", [0.5, 0.75], [0.25, 0.75]),
        (Task("t", threshold=0.2), "probabilities", [0.2, 0.2], [0.5, 0.5]),
        (Task("t", threshold=0.5), "probabilities", [0.5, 1.0], [0, 1]),
        (VECTORS, "embedding", [0.0, np.log(3) / 20], [0.25, 0.75]),
    ],
)
def test_what_probabilities_scores_stand_for(
    task: Task, meaning: Meaning, scores: list[float], probabilities: list[float]
) -> None:
    found = logits(task, np.array([scores]), meaning, cosines_at=0.05)
    np.testing.assert_allclose(np.exp(log_probabilities(found)), [probabilities], atol=1e-12)


def from_outputs(*outputs: str) -> tuple[list[Task], Answers]:
    tasks = [Task("a"), Task("b"), Task("depth", kind="regression")]
    given = [LOGITS.astype(float), LOGITS.astype(float) * 2, np.full((2, 1), 5.0)]
    return tasks, Answers(given, ["logits", "logits", None], outputs)


def test_scores_of_one_output_stay_as_they_are() -> None:
    tasks, answers = from_outputs("y", "y", "z")
    for found, before in zip(on_one_scale(tasks, answers), answers.given, strict=True):
        assert found is before
    assert not sureness(tasks, answers).apart


def test_scores_of_different_outputs_become_probabilities() -> None:
    tasks, answers = from_outputs("y", "z", "z")
    one, other, depth = on_one_scale(tasks, answers)
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(np.exp(one).sum(axis=1), 1)
    np.testing.assert_allclose(np.exp(other).sum(axis=1), 1)
    assert depth is answers.given[2]
    assert sureness(tasks, answers).apart


def test_a_model_is_as_sure_as_cosines_at_the_temperature_that_merges_use() -> None:
    answers = Answers([np.array([[0.3, 0.1]])], ["embedding"], ["y"])
    (found,) = sureness([VECTORS], answers).logits
    assert found is not None
    np.testing.assert_allclose(found, [[6.0, 2.0]])
