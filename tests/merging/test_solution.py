"""A layer that is solved has the deviation that its parents have, whatever least squares could explain of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.merging.closed_form.accumulator import LayerStatistics
from onnxmerge.merging.closed_form.ridge import Sums
from onnxmerge.merging.closed_form.solution import solve

RNG = np.random.default_rng(0)
ROWS, FEATURES, UNITS = 4000, 5, 3
X = RNG.normal(1, 1, (1, ROWS, FEATURES)).astype(np.float32)
TRUE = RNG.normal(size=(1, UNITS, FEATURES))
EXPLAINED = np.einsum("gnd,gud->gnu", X, TRUE).astype(np.float32)
NOISE = (2 * RNG.normal(size=(1, ROWS, UNITS))).astype(np.float32)


def statistics(*targets: NDArray[np.float32], wanted: NDArray[np.float32]) -> LayerStatistics:
    """Of targets [1, rows, units]; the deviation and the size that are wanted are those of the rows ``wanted``."""
    fit, held = (Sums(X.mean(axis=1), np.stack(targets).mean(axis=2)) for _ in range(2))
    for sums, part in ((fit, slice(None, 3000)), (held, slice(3000, None))):
        sums.add(X[:, part], np.stack(targets)[:, :, part])
    wide = wanted.astype(np.float64)
    return LayerStatistics(fit, held, wide.std(axis=1), np.sqrt(np.square(wide).mean(axis=1)))


@pytest.mark.parametrize("biased", [True, False])
def test_what_least_squares_cannot_explain_shrinks_no_unit(*, biased: bool) -> None:
    target = EXPLAINED + NOISE
    found = solve(statistics(target, wanted=target), np.zeros_like(TRUE), biased=biased)
    given = np.einsum("gnd,gud->gnu", X, found.weight) + (found.bias[:, None] if biased else 0.0)
    if biased:
        np.testing.assert_allclose(given.std(axis=1), target.std(axis=1), rtol=1e-3)
        np.testing.assert_allclose(given.mean(axis=1), target.mean(axis=1), rtol=1e-3, atol=1e-3)
    else:
        np.testing.assert_allclose(np.square(given).mean(axis=1), np.square(target).mean(axis=1), rtol=1e-3)


def test_a_branch_gives_the_whole_stream_its_deviation() -> None:
    shortcut = RNG.normal(size=(1, ROWS, UNITS)).astype(np.float32)
    target = EXPLAINED + NOISE / 4 + shortcut  # a branch may be scaled by no more than 2
    found = solve(statistics(target, shortcut, wanted=target), np.zeros_like(TRUE), biased=True)
    given = np.einsum("gnd,gud->gnu", X, found.weight) + found.bias[:, None] + shortcut
    np.testing.assert_allclose(given.std(axis=1), target.std(axis=1), rtol=1e-3)


@pytest.mark.parametrize("branch", [True, False])
def test_a_layer_that_meets_its_target_stays_as_it_is(*, branch: bool) -> None:
    shortcut = [RNG.normal(size=(1, ROWS, UNITS)).astype(np.float32)] if branch else []
    target = sum(shortcut, EXPLAINED)
    found = solve(statistics(target, *shortcut, wanted=target), TRUE, biased=True)
    np.testing.assert_array_equal(found.weight, TRUE)
    np.testing.assert_allclose(found.bias, 0.0, atol=1e-5)
    assert found.ridge == np.inf
