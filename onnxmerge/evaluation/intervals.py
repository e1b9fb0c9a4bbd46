"""95% intervals: how far a score on some samples may be from the score on all that could be drawn.

They know of nothing but the number of samples. Models that are scored on the same samples differ by less than two
intervals suggest, since they find the same samples hard: `of_paired_difference` is for these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TypeAlias

Interval: TypeAlias = tuple[float, float]
"""The lower and the upper end."""

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""How many standard deviations from its mean a normal variable stays, at this level."""


def wilson(hits: int, samples: int) -> Interval:
    """The interval of a rate of ``hits`` among ``samples`` (at least 1), within 0 and 1.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927. Right also where
    all or no samples are hits. ``scipy.stats`` has it too, but takes longer to import than a small evaluation.
    """
    rate, square = hits / samples, Z * Z
    middle = (rate + square / (2 * samples)) / (1 + square / samples)
    reach = Z * math.sqrt(rate * (1 - rate) / samples + square / (4 * samples**2)) / (1 + square / samples)
    return (0.0 if hits == 0 else middle - reach), (1.0 if hits == samples else middle + reach)


def of_paired_difference(lost: int, won: int, samples: int) -> Interval:
    """The interval of how much less often one of two is right than the other, both asked about the same samples.

    Of ``samples`` (at least 1) ``lost`` are those that only the other got right, ``won`` those that only the one did.
    Samples on which both agree say nothing but how many there are, so that the interval is far shorter than that of
    two rates of samples of their own. Source: Agresti and Min, Simple improved confidence intervals for comparing
    matched proportions, Statistics in Medicine 2005: half a sample is added to each cell, which keeps it right where
    hardly any sample differs.
    """
    count, difference = samples + 2, lost - won
    variance = (lost + won + 1 - difference * difference / count) / (count * count)
    middle, reach = difference / count, Z * math.sqrt(variance)
    return max(middle - reach, -1.0), min(middle + reach, 1.0)


def of_mean_of_rates(rates: Sequence[float], intervals: Sequence[Interval], *, apart: bool) -> Interval:
    """The interval of the mean of some rates, from their own.

    ``apart`` says that each rate has samples of its own. Then distances to the ends add up in squares (Zou and Donner,
    Construction of confidence limits about effect measures, Statistics in Medicine 2008). Rates of the same samples
    may move together: then the distances themselves add up, which is the most that they can.
    """
    mean = sum(rates) / len(rates)
    below = [rate - low for rate, (low, _) in zip(rates, intervals, strict=True)]
    above = [high - rate for rate, (_, high) in zip(rates, intervals, strict=True)]
    added = math.hypot if apart else lambda *distances: math.fsum(distances)
    return mean - added(*below) / len(rates), mean + added(*above) / len(rates)


def of_mean(mean: float, mean_square: float, samples: int) -> Interval:
    """The interval of the mean of numbers that are not negative, from that of their squares; normal, from 0 on.

    Both ends are nan where one number says nothing of how they vary.
    """
    if samples < 2:
        return math.nan, math.nan
    variance = max(mean_square - mean * mean, 0.0) * samples / (samples - 1)
    reach = Z * math.sqrt(variance / samples)
    return max(mean - reach, 0.0), mean + reach
