"""Methods for matrices: each against what its formula says in a case that can be seen, and the same in any layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge import merge
from onnxmerge.merging.task_vectors import TASK_VECTORS
from onnxmerge.merging.task_vectors.vectors import TaskVectors, of_arrays
from tests.graphs import build, normal

MATRICES = [name for name, method in TASK_VECTORS.items() if method.matrices]
RNG = np.random.default_rng(0)


def rule(name: str, stack: NDArray[np.float64] | TaskVectors, **own: Any) -> NDArray[np.float64]:
    method = TASK_VECTORS[name]
    vectors = stack if isinstance(stack, TaskVectors) else of_arrays(stack)
    return np.asarray(method.rule(vectors, method.options(**own)))


def apart(scales: tuple[float, ...] = (3.0, 2.0)) -> NDArray[np.float64]:
    """Tasks that have nothing in common: other inputs, other outputs. Rank one each [2, 8, 6]."""
    stack = np.zeros((2, 8, 6))
    stack[0, 1, 2], stack[1, 4, 5] = scales
    return stack


@pytest.mark.parametrize("name", ["tsv-m", "actmat", "tact", "swudi", "knots"])
def test_tasks_that_have_nothing_in_common_do_not_interfere(name: str) -> None:
    own = {"time": 1e6} if name == "swudi" else {}
    np.testing.assert_allclose(rule(name, apart(), **own), apart().sum(axis=0), atol=1e-9)


def test_tsv_m_keeps_the_first_directions_of_each_task() -> None:
    stack = np.stack([np.diag([9.0, 5, 1, 0, 0, 0, 0, 0]), np.diag([0.0, 0, 0, 0, 8, 4, 2, 1])])
    np.testing.assert_allclose(rule("tsv-m", stack), stack.sum(axis=0), atol=1e-9)  # 4 of 8 directions each
    three = np.concatenate([stack, np.diag([0.0, 0, 0, 7, 0, 0, 0, 0])[None]])
    kept = np.diag([9.0, 5, 0, 7, 8, 4, 0, 0])
    np.testing.assert_allclose(np.abs(rule("tsv-m", three)), kept, atol=1e-9)  # 2 of 8 each


def test_more_tasks_than_directions_keep_one_each() -> None:
    assert np.linalg.matrix_rank(rule("tsv-m", RNG.standard_normal((5, 3, 4)))) == 3


@pytest.mark.parametrize(("name", "rank"), [("iso-c", 6), ("iso-cts", 6)])
def test_all_directions_are_alike(name: str, rank: int) -> None:
    found = np.linalg.svd(rule(name, RNG.standard_normal((2, 8, 6))), compute_uv=False)
    np.testing.assert_allclose(found, np.full(rank, found[0]))


def test_iso_cts_without_directions_of_single_tasks_is_iso_c() -> None:
    stack = RNG.standard_normal((3, 8, 6))
    np.testing.assert_allclose(rule("iso-cts", stack, common=1.0), rule("iso-c", stack), atol=1e-9)
    assert not np.allclose(rule("iso-cts", stack, common=0.4), rule("iso-c", stack))


@pytest.mark.parametrize("inner", ["mean", "dare", "ties"])
def test_knots_with_all_kept_is_the_method_in_shared_coordinates(inner: str) -> None:
    stack = RNG.standard_normal((3, 8, 6))
    own = {} if inner == "mean" else {"density": 1.0}
    found = rule("knots", stack, inner=inner, **own)
    if inner == "ties":
        assert not np.allclose(found, stack.mean(axis=0))
    else:
        np.testing.assert_allclose(found, stack.mean(axis=0), atol=1e-9)


@pytest.mark.parametrize("name", ["actmat", "tact", "ace"])
def test_equal_task_vectors_are_their_mean(name: str) -> None:
    one = RNG.standard_normal((8, 6))
    np.testing.assert_allclose(rule(name, np.stack([one, one])), one, atol=1e-9)


def test_ace_does_not_hear_what_all_rows_have_in_common() -> None:
    stack = RNG.standard_normal((2, 8, 6))
    shifted = stack + np.array([1, -2])[:, None, None] * RNG.standard_normal(6)
    covariances = [one - one.mean(axis=0) for one in stack]
    grams = [one.T @ one for one in covariances]
    expected = sum(one @ gram for one, gram in zip(shifted, grams, strict=True)) @ np.linalg.inv(sum(grams))
    np.testing.assert_allclose(rule("ace", shifted), expected, atol=1e-9)


def test_swudi_ends_at_the_least_interference_and_begins_at_nothing() -> None:
    stack = RNG.standard_normal((3, 8, 6)) * np.array([1, 2, 5])[:, None, None]
    grams = [one.T @ one / np.square(one).sum() for one in stack]
    least = sum(one @ gram for one, gram in zip(stack, grams, strict=True)) @ np.linalg.inv(sum(grams))
    np.testing.assert_allclose(rule("swudi", stack, time=1e6), least, atol=1e-9)
    slope = sum(one @ gram for one, gram in zip(stack, grams, strict=True))
    np.testing.assert_allclose(rule("swudi", stack, time=1e-6) / 1e-6, slope, rtol=1e-4)
    np.testing.assert_array_equal(rule("swudi", np.zeros((2, 3, 3))), np.zeros((3, 3)))


def test_cart_with_all_directions_is_the_sum() -> None:
    stack = RNG.standard_normal((3, 8, 6))
    np.testing.assert_allclose(rule("cart", stack, rank=1.0), stack.sum(axis=0), atol=1e-9)
    assert np.linalg.matrix_rank(rule("cart", stack, rank=0.1)) == 3


@pytest.mark.parametrize("name", MATRICES)
def test_weights_multiply_what_was_learnt(name: str) -> None:
    stack = RNG.standard_normal((2, 8, 6))
    plain = TaskVectors("w", (8, 6), [1.5, 0.5], lambda index: stack[index])
    assert np.isfinite(rule(name, plain)).all()
    assert not np.allclose(rule(name, plain), rule(name, stack))


LAYOUTS = {
    "Gemm": ("y = Gemm(x, w)", True),
    "Gemm, transposed": ("y = Gemm<transB=1>(x, w)", False),
    "MatMul": ("y = MatMul(x, w)", True),
    "on the left": ("t = Transpose<perm=[1,0]>(x) u = MatMul(w, t) y = Transpose<perm=[1,0]>(u)", False),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_layout_changes_nothing(name: str) -> None:
    found = []
    for body, turned in LAYOUTS.values():
        graph = f"(float[n,6] x) => (float[n,8] y) {{ {body} }}"
        own = [normal(w=(8, 6), seed=seed)["w"] for seed in range(3)]
        base, *tuned = (build(graph, {"w": np.ascontiguousarray(w.T if turned else w)}) for w in own)
        given = base if TASK_VECTORS[name].takes_base else None
        merged = merge(tuned, base=given, method=name).weights["w"]
        found.append(merged.T if turned else merged)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)


PACKED = """(float[n,5,8] x) => (float[n,5,8] y) {
    p = MatMul(x, w)
    q, k, v = Split<axis=-1, num_outputs=3>(p)
    t = Transpose<perm=[0,2,1]>(k)
    s = MatMul(q, t)
    a = Softmax<axis=-1>(s)
    y = MatMul(a, v)
}"""
APART = """(float[n,5,8] x) => (float[n,5,8] y) {
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    t = Transpose<perm=[0,2,1]>(k)
    s = MatMul(q, t)
    a = Softmax<axis=-1>(s)
    y = MatMul(a, v)
}"""


@pytest.mark.parametrize("name", MATRICES)
def test_packed_projections_are_split_where_the_graph_shows_them(name: str) -> None:
    three = [[normal(w=(8, 8), seed=3 * seed + part)["w"] for part in range(3)] for seed in range(3)]
    packed = [build(PACKED, {"w": np.hstack(parts)}) for parts in three]
    single = [build(APART, dict(zip(("wq", "wk", "wv"), parts, strict=True))) for parts in three]

    def merged(networks: list[Any]) -> Any:
        base, *tuned = networks
        return merge(tuned, base=base if TASK_VECTORS[name].takes_base else None, method=name).weights

    whole, parts = merged(packed), merged(single)
    np.testing.assert_allclose(whole["w"], np.hstack([parts[each] for each in ("wq", "wk", "wv")]), atol=1e-5)


def test_what_is_no_matrix_gets_the_mean_times_the_scale() -> None:
    graph = "(float[n,6] x) => (float[n,8] y) { y = Gemm<transB=1>(x, w, b) }"
    own = [normal(w=(8, 6), b=(8,), seed=seed) for seed in range(3)]
    base, *tuned = (build(graph, each) for each in own)
    found = merge(tuned, base=base, method="tsv-m", scale=0.5).weights["b"]
    np.testing.assert_allclose(found, 0.5 * own[0]["b"] + 0.25 * (own[1]["b"] + own[2]["b"]), atol=1e-6)
