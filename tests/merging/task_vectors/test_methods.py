"""The rules for task vectors, each against its formula on small arrays, and what they leave alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from onnxmerge.errors import InputError
from onnxmerge.merging.task_vectors import TASK_VECTORS, TaskVectors, add_task_vectors
from onnxmerge.merging.task_vectors.methods.ties import trimmed
from onnxmerge.model.network import ModelSet
from onnxmerge.units.layout import Typing
from tests.merging.networks import models, network

GRAPH = "(float[n,4] x) => (float[n,4] y) { y = Add(x, w) }"


def vectors(*rows: ArrayLike, weights: Sequence[float] | None = None, name: str = "w", seed: int = 0) -> TaskVectors:
    stack = np.array(rows, np.float64)
    return TaskVectors(name, stack.shape[1:], weights or [1.0] * len(rows), lambda index: stack[index], seed)


def rule(name: str, task: TaskVectors, **own: Any) -> NDArray[np.float64]:
    method = TASK_VECTORS[name]
    return np.asarray(method.rule(task, method.options(**own)))


def test_task_arithmetic_adds_up() -> None:
    np.testing.assert_allclose(rule("task-arithmetic", vectors([1, -2], [3, 1])), [4, -1])
    np.testing.assert_allclose(rule("task-arithmetic", vectors([1, -2], [3, 1], weights=[1.5, 0.5])), [3, -2.5])


def test_ties_by_hand() -> None:
    """Trimmed to two entries each: (4, 0, -3, 0), (-1, 0, 0, 2), (3, 0, -5, 0); signs +, 0, -, +."""
    task = vectors([4, 0.5, -3, 1], [-1, 0.5, 0.5, 2], [3, 1, -5, 0])
    np.testing.assert_allclose(rule("ties", task, density=0.5), [3.5, 0, -4, 2])


def test_ties_weighs_votes_and_means() -> None:
    task = vectors([2.0, 1.0], [-1.0, 3.0], weights=[0.5, 1.5])
    np.testing.assert_allclose(rule("ties", task, density=1.0), [-1.0, (0.5 * 1 + 1.5 * 3) / 2])


def test_ties_elects_by_the_sum_and_not_by_the_count() -> None:
    task = vectors([5.0, -5.0], [-1.0, 1.0], [-2.0, 2.0])
    np.testing.assert_allclose(rule("ties", task, density=1.0), [5.0, -5.0])


def test_ties_gives_nothing_where_the_signs_cancel() -> None:
    np.testing.assert_array_equal(rule("ties", vectors([1.0, 1.0], [-1.0, 1.0]), density=1.0), [0, 1])


@pytest.mark.parametrize(("density", "kept"), [(0.01, 1), (0.2, 2), (0.25, 2), (0.29, 2), (0.5, 5), (1.0, 10)])
def test_trim_keeps_the_largest(density: float, kept: int) -> None:
    vector = np.random.default_rng(0).permutation(np.array([1, -2, 3, -4, 5, -6, 7, -8, 9, -10.0]))
    expected = np.where(np.abs(vector) > 10 - kept, vector, 0)
    np.testing.assert_array_equal(trimmed(vector, density), expected)


def test_dare_keeps_its_share_and_the_expectation() -> None:
    ones = np.ones((200, 300))
    found = rule("dare", vectors(ones), density=0.25)
    assert set(np.unique(found)) == {0.0, 4.0}
    assert found.mean() == pytest.approx(1.0, abs=0.02)
    two = rule("dare", vectors(ones, ones), density=0.25)
    assert {0.0, 4.0, 8.0} == set(np.unique(two))  # each model drops entries of its own


def test_dare_is_seeded_by_tensor() -> None:
    def found(name: str, seed: int) -> NDArray[np.float64]:
        return rule("dare", vectors(np.ones(64), name=name, seed=seed), density=0.5)

    np.testing.assert_array_equal(found("w", 1), found("w", 1))
    assert not np.array_equal(found("w", 1), found("w", 2))
    assert not np.array_equal(found("w", 1), found("v", 1))


def added(name: str, base: Mapping[str, NDArray[Any]], *tuned: Mapping[str, NDArray[Any]], **more: Any) -> NDArray[Any]:
    nets = [network(GRAPH, {"w": np.zeros(4, np.float32)}) for _ in tuned]
    sets = ModelSet(nets[0], tuned, models(*nets).sources)
    typing = Typing({}, {}, {}, more.pop("statistics", frozenset()))
    method, shares = TASK_VECTORS[name], [1 / len(tuned)] * len(tuned)
    return add_task_vectors(sets, base, typing, method, method.options(**more), shares)["w"]


@pytest.mark.parametrize("name", TASK_VECTORS)
def test_the_base_is_what_untuned_models_give(name: str) -> None:
    base = {"w": np.array([1, -np.inf, np.nan, 0.1], np.float32)}
    found = added(name, base, base, {"w": base["w"].copy()})
    assert found.tobytes() == base["w"].tobytes()


@pytest.mark.parametrize("name", TASK_VECTORS)
def test_infinite_entries_that_nobody_tuned_survive(name: str) -> None:
    base = {"w": np.array([1, -np.inf, 2, 3], np.float32)}
    found = added(name, base, {"w": base["w"] + np.float32(1)}, base)
    assert np.isneginf(found[1])
    assert np.isfinite(found[[0, 2, 3]]).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_the_scale_is_lambda_and_the_stored_type_is_kept(dtype: Any) -> None:
    base = {"w": np.array([1, 2, 3, 4], dtype)}
    found = added("task-arithmetic", base, {"w": base["w"] + dtype(1)}, {"w": base["w"] + dtype(2)}, scale=0.5)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(np.float64), np.array([1, 2, 3, 4]) + 1.5)


def test_running_statistics_become_the_mean_of_the_models() -> None:
    base = {"w": np.ones(4, np.float32)}
    tuned = [{"w": np.full(4, value, np.float32)} for value in (2, 4)]
    np.testing.assert_array_equal(added("ties", base, *tuned, statistics=frozenset({"w"})), np.full(4, 3))


def test_integers_must_be_equal() -> None:
    base = {"w": np.arange(4)}
    assert added("ties", base, base, base) is base["w"]
    with pytest.raises(InputError, match=r"initializer w \(int64\): differs between the models and their base"):
        added("ties", base, base, {"w": np.arange(4) + 1})
