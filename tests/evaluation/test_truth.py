from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxmerge.errors import InputError
from onnxmerge.evaluation.labels import read_labels
from onnxmerge.evaluation.task import Task
from onnxmerge.evaluation.truth import Truth, truth

LOW, HIGH = Task("low", row_of={0: 0, 1: 1}), Task("high", row_of={7: 0, 9: 1})


def right(labels: Any, *tasks: Task) -> Truth:
    given = labels if isinstance(labels, dict) else np.array(labels)
    return truth(tasks, read_labels(given))


def test_each_sample_belongs_to_one_task_at_most() -> None:
    found = right([0, 9, -1, 5], LOW, HIGH)
    assert [rows.tolist() for rows in found.answers] == [[0, -1, -1, -1], [-1, 1, -1, -1]]
    assert found.labelled.tolist() == [True, True, False, True]
    assert found.owner is not None
    assert found.owner.tolist() == [0, 1, -1, -1]


def test_no_owner_where_tasks_judge_the_same_samples() -> None:
    assert right([0, 1], Task("a"), Task("b")).owner is None
    assert right([0, 1], Task("a")).owner is None


def test_a_column_of_labels_for_each_task() -> None:
    labels = {"a": np.array([1, -1, 0]), "b": np.array([-1, 2, -1])}
    found = right(labels, Task("a"), Task("b"))
    assert found.owner is not None
    assert found.owner.tolist() == [0, 1, 0]


def test_regressions_own_no_samples() -> None:
    labels = {"labels": np.array([0, 9]), "depth": np.array([0.5, np.nan])}
    found = right(labels, LOW, Task("depth", kind="regression"), HIGH)
    assert found.owner is not None
    assert found.owner.tolist() == [0, 2]
    np.testing.assert_array_equal(found.answers[1], [[0.5], [np.nan]])


@pytest.mark.parametrize(
    ("labels", "task", "says"),
    [
        ([5, 6], LOW, "none of the 2 samples has a label of task 'low'"),
        ([[np.nan, 1], [np.nan, 2]], Task("t", kind="regression"), "none of the 2 samples has a label of task 't'"),
        ([0, 1.5], LOW, r"sample 1 has label 1\.5, task 'low' expects whole numbers .* --regression"),
        ([0, -2], LOW, "sample 1 has label -2"),
        ([0, np.nan], LOW, "sample 1 has label nan"),
        ([[0, 1], [1, 0]], LOW, "2 numbers for each sample, task 'low' expects one label"),
    ],
)
def test_labels_that_do_not_fit(labels: Any, task: Task, says: str) -> None:
    with pytest.raises(InputError, match=says):
        right(labels, task)
