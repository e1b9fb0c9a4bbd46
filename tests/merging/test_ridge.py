"""Ridge regression from sums, against least squares over the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.merging.closed_form import ridge as ridge_module
from onnxmerge.merging.closed_form.ridge import LAMBDAS, Problem, RowBlocks, Sums, choose, problem, ridge
from onnxmerge.types import Floats

RNG = np.random.default_rng(0)
X = RNG.normal(3, 1, (2, 200, 5)).astype(np.float32)
TRUE = RNG.normal(size=(2, 3, 5))
Y = (np.einsum("gnd,gud->gnu", X, TRUE) + RNG.normal(5, 0.1, (2, 200, 3))).astype(np.float32)


def sums(x: NDArray[np.float32], *targets: NDArray[np.float32]) -> Sums:
    found = Sums(np.full((2, 5), 2.5), np.full((len(targets), 2, 3), 1.0))
    for part in (slice(None, 60), slice(60, None)):
        found.add(x[:, part], np.stack(targets)[:, :, part])
    return found


@pytest.mark.parametrize("about", [None, (np.zeros((2, 5)), np.zeros((2, 3)))])
def test_it_is_least_squares_where_the_ridge_is_small(about: tuple[Floats, Floats] | None) -> None:
    biased = about is None
    found = problem(sums(X, Y), np.ones((1, 2, 3)), about)
    weight = ridge(found, np.zeros((2, 3, 5)), 1e-9)
    for group in range(2):
        x = np.concatenate([X[group], np.ones((200, 1))], axis=1) if biased else X[group]
        expected, *_ = np.linalg.lstsq(x.astype(np.float64), Y[group].astype(np.float64), rcond=None)
        np.testing.assert_allclose(weight[group], expected[:5].T, rtol=1e-3, atol=1e-3)
        residual = Y[group] - x @ expected
        np.testing.assert_allclose(found.errors(weight)[group], np.square(residual).mean(axis=0), rtol=1e-2)
        if biased:
            np.testing.assert_allclose(found.y[group] - weight[group] @ found.x[group], expected[5], rtol=1e-3)


def test_a_large_ridge_keeps_the_prior_and_a_right_prior_stays() -> None:
    noise = problem(sums(X, RNG.normal(size=Y.shape).astype(np.float32)), np.ones((1, 2, 3)), None)
    np.testing.assert_allclose(ridge(noise, TRUE, 1e9), TRUE, rtol=1e-6)
    exact = problem(sums(X, np.einsum("gnd,gud->gnu", X, TRUE).astype(np.float32)), np.ones((1, 2, 3)), None)
    for each in LAMBDAS:
        np.testing.assert_allclose(ridge(exact, TRUE, each), TRUE, atol=1e-3)


def test_targets_combine_unit_by_unit() -> None:
    factors = np.array([[[2.0, 1.0, 0.5]] * 2, [[-1.0] * 3] * 2])
    other = RNG.normal(size=Y.shape).astype(np.float32)
    whole = problem(sums(X, Y, other), factors, None)
    direct = problem(sums(X, (factors[0][:, None] * Y - other).astype(np.float32)), np.ones((1, 2, 3)), None)
    np.testing.assert_allclose(whole.xy, direct.xy, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole.yy, direct.yy, rtol=1e-4)
    np.testing.assert_allclose(whole.y, direct.y, rtol=1e-4)


def test_the_ridge_is_chosen_on_held_out_rows() -> None:
    rng = np.random.default_rng(1)
    one = np.ones((1, 1, 2))

    def rows(count: int, noise: float) -> Sums:
        x = rng.normal(size=(1, count, 40)).astype(np.float32)
        found = Sums(np.zeros((1, 40)), np.zeros((1, 1, 2)))
        found.add(x, (x[:, :, :2] + noise * rng.normal(size=(1, count, 2))).astype(np.float32)[None])
        return found

    prior = np.zeros((1, 2, 40))
    clean, noisy = (
        choose(problem(rows(60, n), one, None), problem(rows(500, 0), one, None), prior) for n in (0.0, 3.0)
    )
    assert clean[0] == min(LAMBDAS)
    assert noisy[0] > clean[0]
    assert noisy[1] > clean[1]


def test_a_ridge_smaller_than_the_rounding_of_products_is_raised() -> None:
    products = np.diag([1.0, 1.0, -1e-3])[None]
    small = Problem(np.zeros((1, 3)), np.zeros((1, 2)), products, np.ones((1, 3, 2)), np.ones((1, 2)))
    found = ridge(small, np.zeros((1, 2, 3)), 1e-5)
    np.testing.assert_allclose(found[0, :, :2], 1.0, rtol=0.02)
    assert np.isfinite(found).all()


def test_a_prior_whose_error_is_rounding_is_kept() -> None:
    """One direction is hardly there in the data: what rounding says of it is no reason to change a weight."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, 100, 5)).astype(np.float32)
    x[..., 4] = x[..., 3] + 1e-6 * x[..., 4]
    true = rng.normal(size=(1, 2, 5))
    y = (np.einsum("gnd,gud->gnu", x, true) * (1 + 3e-8 * rng.normal(size=(1, 100, 2)))).astype(np.float32)
    found = Sums(np.zeros((1, 5)), np.zeros((1, 1, 2)))
    found.add(x, y[None])
    whole = problem(found, np.ones((1, 1, 2)), None)
    best, error = choose(whole, whole, true)
    assert best == np.inf
    assert error < 1e-6
    np.testing.assert_array_equal(ridge(whole, true, best), true)
    worse = np.where(np.arange(2)[None, :, None] == 0, true, 1.01 * true)
    assert choose(whole, whole, worse)[0] < np.inf  # one unit of two is wrong


def test_rows_in_blocks_add_up_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge_module, "AT_ONCE", 7)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 40, 5), (1, 2, 40, 3)))
    shifts = x.mean(axis=1, dtype=np.float64), y.mean(axis=2, dtype=np.float64)
    plain, blocks = Sums(*shifts), RowBlocks(Sums(*shifts))
    plain.add(x, y)
    for start in range(0, 40, 3):
        blocks.add(x[:, start : start + 3], y[:, :, start : start + 3])
    found = blocks.sums()
    assert found.count == plain.count == 40
    for name in ("x", "y", "xx", "xy", "yy"):
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), rtol=1e-5, atol=1e-5)


def test_units_that_choose_the_ridge_are_drawn_whatever_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge_module, "JUDGES", 16)
    rng = np.random.default_rng(0)
    x, true = rng.normal(size=(1, 400, 8)).astype(np.float32), rng.normal(size=(1, 64, 8))
    y = np.einsum("gnd,gud->gnu", x, true).astype(np.float32)
    prior = true.copy()
    prior[:, 1::2] += 3 * rng.normal(size=(1, 32, 8))  # every other unit is right already
    found = Sums(x.mean(axis=1), y.mean(axis=1)[None])
    found.add(x, y[None])
    whole = problem(found, np.ones((1, 1, 64)), None)
    best, error = choose(whole, whole, prior)
    assert best == LAMBDAS[0]
    assert error < 1e-4


@pytest.mark.parametrize("batch", [64, 4096])
def test_a_right_prior_is_kept_however_rows_come(batch: int) -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(1, 32, 64)) / 8
    x = np.maximum(rng.normal(size=(1, 20480, 64)), 0).astype(np.float32)
    y = (x @ true.astype(np.float32).transpose(0, 2, 1))[None]
    shifts = x[:, :batch].mean(axis=1, dtype=np.float64), y[:, :, :batch].mean(axis=2, dtype=np.float64)
    fit, held = RowBlocks(Sums(*shifts)), RowBlocks(Sums(*shifts))
    for start in range(0, x.shape[1], batch):
        cut = start + batch * 4 // 5
        fit.add(x[:, start:cut], y[:, :, start:cut])
        held.add(x[:, cut : start + batch], y[:, :, cut : start + batch])
    one = np.ones((1, 1, 32))
    small = problem(fit.sums(), one, None)
    best, _ = choose(small, problem(held.sums(), one, (small.x, small.y)), true.astype(np.float32).astype(np.float64))
    assert best == np.inf
