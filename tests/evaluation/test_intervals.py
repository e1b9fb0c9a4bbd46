from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from onnxmerge.evaluation.intervals import of_mean, of_mean_of_rates, wilson


@pytest.mark.parametrize(
    ("count", "samples"), [(0, 1), (1, 1), (0, 40), (40, 40), (1, 3), (723, 1000), (49_999, 50_000)]
)
def test_wilson_is_that_of_scipy(count: int, samples: int) -> None:
    expected = binomtest(count, samples).proportion_ci(method="wilson")
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
