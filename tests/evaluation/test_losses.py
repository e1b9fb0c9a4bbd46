"""What one answer to all samples loses, from batches that pass once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from onnxmerge.evaluation.losses import Losses, Right
from onnxmerge.types import Floats

RNG = np.random.default_rng(0)
FAR = 1e7 + 4 * RNG.standard_normal((60, 3))
HOLES = np.where(RNG.random((60, 3)) < 0.3, np.nan, FAR)
HOLES[:20, 1] = np.nan


def constant(batches: Sequence[Floats]) -> float:
    found = Losses(np.zeros(1))
    for batch in batches:
        found.expect(Right(batch, classes=False))
    return found.constant


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.tile([0.0, 100.0, 0.1], (60, 1)), 0),
        (np.full(60, 0.1), 0),
        (FAR, FAR.var(axis=0).mean()),
        (FAR.reshape(60, 1, 3), FAR.var(axis=0).mean()),
        (HOLES, np.nansum(np.square(HOLES - np.nanmean(HOLES, axis=0))) / np.count_nonzero(~np.isnan(HOLES))),
    ],
    ids=["the same for all", "one number", "far from zero", "of three axes", "not known everywhere"],
)
def test_each_number_has_an_answer_of_its_own(values: Floats, expected: float) -> None:
    for ends in ([], [20, 50], [0, 1, 59]):
        assert constant(np.split(values, ends)) == pytest.approx(expected, rel=1e-9, abs=0)


def test_samples_of_several_shapes_have_an_answer_for_each() -> None:
    short, long = np.tile([1.0, 2.0], (3, 1)), np.tile([5.0, 6.0, 7.0], (4, 1))
    assert constant([short, long, short, np.array(4.0)]) == 0
    assert constant([short, long, short + 2]) == pytest.approx(12 / 24)
