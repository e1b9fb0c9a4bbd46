"""Feeds are cut anew without losing or mixing up samples."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.calibration.recut import Recut
from onnxmerge.calibration.sources import open_source
from onnxmerge.calibration.specs import InputSpec
from onnxmerge.errors import InputError

SPECS = (InputSpec("x", (None, None), np.dtype(np.float32)),)


@pytest.mark.parametrize(
    ("lengths", "size", "wanted"),
    [
        ([7], 1, [[0], [1], [2], [3], [4], [5], [6]]),
        ([7], 2, [[0, 1], [2, 3], [4, 5]]),
        ([3, 3], 2, [[0, 1], [2, 3], [4, 5]]),
        ([3, -3], 2, [[0, 1], [3, 4]]),
    ],
)
def test_feeds_hold_so_many_samples_of_one_shape(lengths: list[int], size: int, wanted: list[list[int]]) -> None:
    chunks, first = [], 0
    for length in lengths:  # a negative one is of another width
        rows = np.arange(first, first + abs(length), dtype=np.float32)
        chunks.append({"x": np.repeat(rows[:, None], 3 if length < 0 else 2, axis=1)})
        first += abs(length)
    source = Recut(open_source(chunks, SPECS, batch_size=4), size)
    for _ in range(2):
        found = [feed["x"][:, 0].tolist() for feed in source]
        assert found == wanted
        assert source.sizes == [len(feed) for feed in wanted]


def test_too_few_samples() -> None:
    source = Recut(open_source(np.ones((2, 2), np.float32), SPECS), 3)
    with pytest.raises(InputError, match="fewer than the 3 samples"):
        next(iter(source))
