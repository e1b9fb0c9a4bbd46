from __future__ import annotations

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from onnxmerge.evaluation.metrics import Hits, errors, hits, ranks, reliability, scaled_score


def test_top_k() -> None:
    scores = np.array([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]])
    assert hits(ranks(scores, np.array([0, 1, 2])), (1, 2, 3)) == Hits((1, 2, 3), 3)


def test_a_sample_that_no_row_is_right_for_counts_as_wrong() -> None:
    assert hits(ranks(np.eye(3), np.array([0, -1, 2])), (1, 3)) == Hits((2, 2), 3)


def test_nan_is_never_right() -> None:
    scores = np.array([[np.nan, 1.0], [np.nan, 1.0]])
    assert hits(ranks(scores, np.array([0, 1])), (1, 2)) == Hits((0, 1), 2)


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 30))
def test_top_1_is_argmax_ties_included(seed: int, rows: int, samples: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (samples, rows)).astype(np.float64)
    right = rng.integers(0, rows, samples)
    assert hits(ranks(scores, right), (1,)).counts == (int((scores.argmax(axis=1) == right).sum()),)


@given(st.integers(0, 10_000), st.integers(0, 20))
def test_parts_add_up_to_the_whole(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    scores, right = rng.normal(size=(20, 4)), rng.integers(-1, 4, 20)
    first, rest = (hits(ranks(scores[part], right[part]), (1, 2)) for part in (slice(cut), slice(cut, None)))
    assert first + rest == hits(ranks(scores, right), (1, 2))
    targets = np.where(rng.random((20, 4)) < 0.2, np.nan, rng.normal(size=(20, 4)))
    whole, parts = errors(scores, targets), errors(scores[:cut], targets[:cut]) + errors(scores[cut:], targets[cut:])
    np.testing.assert_allclose(parts.absolute, whole.absolute)
    np.testing.assert_allclose(parts.squared, whole.squared)
    np.testing.assert_allclose(parts.fourth, whole.fourth)
    np.testing.assert_allclose(parts.intervals("squared"), whole.intervals("squared"))
    assert parts.samples.tolist() == whole.samples.tolist() == (~np.isnan(targets)).sum(axis=0).tolist()


def test_calibration_error_by_hand() -> None:
    # Confidence 0.62 and 0.65 share the bin (9/15, 10/15]: one of two is right. 0.9 and 1 stand alone; 1 is wrong.
    confidence = np.array([0.62, 0.65, 0.9, 1.0])
    chances = np.stack([confidence, 1 - confidence], axis=1)
    found = reliability(chances, chances, np.array([0, 1, 0, -1]))
    assert found.error == pytest.approx((abs(1 - 0.62 - 0.65) + abs(1 - 0.9) + abs(0 - 1.0)) / 4)
    parts = [reliability(chances[part], chances[part], np.array([0, 1, 0, -1])[part]) for part in ([0], [1, 2], [3])]
    assert (parts[0] + parts[1] + parts[2]).error == pytest.approx(found.error)


@pytest.mark.parametrize(("confidence", "bin_"), [(0.0, 0), (1 / 15, 0), (0.07, 1), (0.2, 2), (0.21, 3), (1.0, 14)])
def test_a_bin_has_its_upper_end(confidence: float, bin_: int) -> None:
    found = reliability(np.array([[confidence]]), np.array([[1.0]]), np.array([0]))
    assert found.right.tolist() == [float(place == bin_) for place in range(15)]


def test_confidence_is_that_of_the_answer_whatever_is_more_probable() -> None:
    found = reliability(np.array([[0.3, 0.7]]), np.array([[2.0, 1.0]]), np.array([0]))
    assert found.error == pytest.approx(0.7)


def test_the_calibration_error_of_what_is_no_number_is_none() -> None:
    assert np.isnan(reliability(np.full((2, 2), np.nan), np.full((2, 2), np.nan), np.array([0, 1])).error)


def test_intervals_of_mean_errors() -> None:
    values = np.random.default_rng(0).normal(size=(50, 1))
    found = errors(values, np.zeros_like(values))
    for loss, losses in (("absolute", np.abs(values)), ("squared", values**2)):
        ((low, high),) = found.intervals(loss)  # type: ignore[arg-type]
        reach = 1.959964 * scipy.stats.sem(losses)[0]
        assert (low, high) == pytest.approx((losses.mean() - reach, losses.mean() + reach))


def test_errors_by_column_leave_out_missing_targets() -> None:
    found = errors(np.array([[1.0, 5], [2, 5], [3, 5]]), np.array([[0.0, 7], [4, np.nan], [3, 5]]))
    assert found.means("absolute").tolist() == [1.0, 1.0]
    assert found.means("squared").tolist() == [5 / 3, 2.0]


def test_scaled_score() -> None:
    assert scaled_score(0.2, baseline=1.0, parent=0.2) == 1
    assert scaled_score(1.0, baseline=1.0, parent=0.2) == 0
    assert scaled_score(0.6, baseline=1.0, parent=0.2) == pytest.approx(0.5)
    assert scaled_score(1.8, baseline=1.0, parent=0.2) == pytest.approx(-1)


def test_no_scale_where_the_parent_is_no_better_than_the_baseline() -> None:
    assert scaled_score(0.5, baseline=1.0, parent=1.0) is None
    assert scaled_score(0.5, baseline=1.0, parent=2.0) is None
