"""Parameters of tests that cross several lists: what every run takes of them, and what the slow suite does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import pytest


def crossed(*lists: Iterable[Any], every: int) -> list[Any]:
    """Every combination, for ``pytest.mark.parametrize``; all but one in ``every`` are slow tests.

    Those that every run takes are on the diagonals (their indices add up to a multiple of ``every``), so each value of
    each list is among them, with several values of every other list.
    """
    found = []
    for each in product(*(tuple(enumerate(values)) for values in lists)):
        slow = sum(index for index, _ in each) % every
        found.append(pytest.param(*(value for _, value in each), marks=pytest.mark.slow if slow else ()))
    return found


def some(values: Sequence[Any], kept: Sequence[Any]) -> list[Any]:
    """All values, for ``pytest.mark.parametrize``; those that are not ``kept`` for every run are slow tests."""
    return [value if value in kept else pytest.param(value, marks=pytest.mark.slow) for value in values]
