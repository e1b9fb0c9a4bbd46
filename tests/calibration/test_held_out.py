from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.calibration.held_out import split
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.errors import UsageError
from tests.merging.networks import Source


def rows(source: CalibrationSource) -> list[int]:
    source.rewind()
    found = []
    while (feed := source.get_next()) is not None:
        found.append(int(feed["x"][0]))
    return found


def source(count: int) -> Source:
    return Source([{"x": np.array([index])} for index in range(count)])


@pytest.mark.parametrize(("fraction", "kept"), [(0.2, 8), (0.01, 9), (0.5, 5), (0.99, 1)])
def test_the_last_feeds_are_held_out(fraction: float, kept: int) -> None:
    fit, held = split(source(10), fraction)
    for _ in range(2):  # both read the same data, in passes of their own
        assert rows(fit) == list(range(kept))
        assert rows(held) == list(range(kept, 10))
    assert (fit.batches, held.batches) == (kept, 10 - kept)


def test_nothing_is_held_out_unasked() -> None:
    data = source(3)
    assert split(data, 0.0) == (data, data)


def test_a_single_batch_cannot_be_split() -> None:
    with pytest.raises(UsageError, match=r"--held-out 0\.2: the calibration data is a single batch"):
        split(source(1), 0.2)
