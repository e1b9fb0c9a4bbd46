"""Methods that take every tensor: breadcrumbs, DELLA, model stock, SLERP, soup."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge import merge
from onnxmerge.merging.task_vectors import TASK_VECTORS
from onnxmerge.merging.task_vectors.vectors import TaskVectors, of_arrays
from tests.graphs import build, normal

RNG = np.random.default_rng(0)
GRAPH = "(float[n,6] x) => (float[n,8] y) { y = Gemm<transB=1>(x, w, b) }"
BASE, ONE, OTHER = (build(GRAPH, normal(w=(8, 6), b=(8,), seed=seed)) for seed in range(3))


def rule(name: str, stack: NDArray[np.float64] | TaskVectors, **own: Any) -> NDArray[np.float64]:
    method = TASK_VECTORS[name]
    vectors = stack if isinstance(stack, TaskVectors) else of_arrays(stack)
    return np.asarray(method.rule(vectors, method.options(**own)))


def test_breadcrumbs_drops_both_ends() -> None:
    vector = np.array([[1.0, -2, 3, -4, 5, -6, 7, -8, 9, -10]])
    found = rule("breadcrumbs", vector, density=0.3, outliers=0.2)
    np.testing.assert_array_equal(found, [0, 0, 0, 0, 0, -6, 7, -8, 0, 0])


def test_breadcrumbs_adds_up() -> None:
    stack = RNG.standard_normal((3, 4, 5))
    np.testing.assert_allclose(rule("breadcrumbs", stack, density=1.0, outliers=0.0), stack.sum(axis=0))


def test_della_keeps_large_changes_more_often_and_the_expectation() -> None:
    vector = np.linspace(0.1, 1.0, 20000)
    found = rule("della", vector[None], density=0.5, epsilon=0.8)
    kept = found != 0
    assert kept[-2000:].mean() == pytest.approx(0.5 + 0.4 * 0.9, abs=0.05)
    assert kept[:2000].mean() == pytest.approx(0.5 - 0.4 * 0.9, abs=0.05)
    assert found.mean() == pytest.approx(vector.mean(), abs=0.02)


def test_della_with_all_kept_is_ties_with_all_kept() -> None:
    stack = RNG.standard_normal((3, 4, 5))
    np.testing.assert_allclose(rule("della", stack, density=1.0, epsilon=0.0), rule("ties", stack, density=1.0))


@pytest.mark.parametrize(("cosine", "ratio"), [(1.0, 1.0), (0.0, 0.0), (0.5, 2 / 3), (-0.5, 0.0)])
def test_model_stock_goes_as_far_as_the_models_agree(cosine: float, ratio: float) -> None:
    stack = np.array([[1.0, 0.0], [2 * cosine, 2 * np.sqrt(1 - cosine**2)]])
    np.testing.assert_allclose(rule("model-stock", stack), ratio * stack.mean(axis=0), atol=1e-12)


def test_slerp_stays_on_the_sphere() -> None:
    stack = np.array([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(rule("slerp", stack), np.sqrt([0.5, 0.5]))
    third = TaskVectors("w", (2,), [4 / 3, 2 / 3], lambda index: stack[index])
    np.testing.assert_allclose(rule("slerp", third), [np.cos(np.pi / 6), np.sin(np.pi / 6)])


@pytest.mark.parametrize("one", [np.array([1.0, 2.0]), np.zeros(2)])
def test_slerp_of_what_points_the_same_way_is_the_mean(one: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(rule("slerp", np.stack([one, 3 * one])), 2 * one)


def test_slerp_turns_around_the_base_where_there_is_one() -> None:
    plain, based = (merge([ONE, OTHER], base=base, method="slerp").weights["w"] for base in (None, BASE))
    assert not np.allclose(plain, based)
    base, one = (normal(w=(8, 6), b=(8,), seed=seed)["w"] for seed in (0, 1))
    np.testing.assert_allclose(merge([ONE, ONE], base=BASE, method="slerp").weights["w"], one, atol=1e-6)
    assert not np.allclose(base, one)


def test_a_soup_is_the_mean() -> None:
    found, mean = merge([ONE, OTHER], method="soup").weights, merge([ONE, OTHER], method="average").weights
    for name in ("w", "b"):
        np.testing.assert_allclose(found[name], mean[name], atol=1e-6)


def test_cart_needs_no_base() -> None:
    found = merge([ONE, OTHER], method="cart", rank=1.0).weights["w"]
    np.testing.assert_allclose(found, merge([ONE, OTHER], method="soup").weights["w"], atol=1e-6)
