from __future__ import annotations

import math

import numpy as np
import pytest
import scipy  # scipy.stats takes a second to load: when it is needed

from onnxmerge.evaluation.intervals import of_mean, of_mean_of_rates, of_paired_difference, wilson


@pytest.mark.parametrize(
    ("count", "samples"), [(0, 1), (1, 1), (0, 40), (40, 40), (1, 3), (723, 1000), (49_999, 50_000)]
)
def test_wilson_is_that_of_scipy(count: int, samples: int) -> None:
    expected = scipy.stats.binomtest(count, samples).proportion_ci(method="wilson")
    assert wilson(count, samples) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_rates_of_samples_of_their_own_add_up_in_squares() -> None:
    rates, intervals = [0.8, 0.6], [(0.7, 0.84), (0.2, 0.63)]
    assert of_mean_of_rates(rates, intervals, apart=True) == pytest.approx((0.7 - math.hypot(0.1, 0.4) / 2, 0.725))
    assert of_mean_of_rates(rates, intervals, apart=False) == pytest.approx((0.7 - 0.25, 0.735))
    assert of_mean_of_rates(rates[:1], intervals[:1], apart=True) == pytest.approx(intervals[0])


def test_as_many_samples_in_several_tasks_say_as_much_as_in_one() -> None:
    one, many = wilson(2800, 4000), of_mean_of_rates([0.7] * 4, [wilson(700, 1000)] * 4, apart=True)
    assert many == pytest.approx(one, abs=1e-3)


def test_a_mean_of_one_number_has_no_interval() -> None:
    assert np.isnan(of_mean(1.0, 1.0, 1)).all()
    assert of_mean(1.0, 1.0, 9) == (1.0, 1.0)
    assert of_mean(0.1, 5.0, 4)[0] == 0.0


@pytest.mark.parametrize(("lost", "won", "samples"), [(0.05, 0.02, 200), (0.01, 0.0, 500), (0.2, 0.2, 100)])
def test_the_interval_of_a_paired_difference_holds_the_true_one(lost: float, won: float, samples: int) -> None:
    drawn = np.random.default_rng(0).multinomial(samples, [lost, won, 1 - lost - won], size=2000)
    ends = [of_paired_difference(int(a), int(b), samples) for a, b, _ in drawn]
    held = np.mean([low <= lost - won <= high for low, high in ends])
    assert 0.93 <= held <= 0.995


def test_a_paired_difference_is_known_better_than_two_rates() -> None:
    low, high = of_paired_difference(10, 5, 1000)
    assert (low, high) == pytest.approx((-0.0030, 0.0130), abs=5e-4)
    assert high - low < (wilson(900, 1000)[1] - wilson(900, 1000)[0])
    assert of_paired_difference(5, 10, 1000) == pytest.approx((-high, -low))
    assert of_paired_difference(0, 0, 100)[1] > 0
    assert of_paired_difference(1, 0, 1)[1] <= 1
