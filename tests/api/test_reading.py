"""How often a merge reads its data: each feed of it once, as long as there is room to keep it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import onnxmerge
from onnxmerge.resources import PACKAGE

DIGITS = PACKAGE / "examples" / "digits"
FEEDS = 20


class Reading:
    """Some of the digits in feeds of 16 samples; ``read`` counts those that were given."""

    def __init__(self) -> None:
        with np.load(DIGITS / "calib.npz") as arrays:
            self.arrays = {name: array[: 16 * FEEDS] for name, array in arrays.items()}
        self.read = 0

    def __call__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        for first in range(0, len(next(iter(self.arrays.values()))), 16):
            self.read += 1
            yield {name: array[first : first + 16] for name, array in self.arrays.items()}


def test_the_default_reads_each_feed_once() -> None:
    data = Reading()
    result = onnxmerge.merge([DIGITS / "a.onnx", DIGITS / "b.onnx"], calibration=data)
    assert result.report.effort is not None
    assert len(result.report.effort.ways) > 1
    assert data.read == FEEDS


def test_a_generator_will_do_where_it_can_be_kept() -> None:
    again, once = (
        onnxmerge.merge([DIGITS / "a.onnx", DIGITS / "b.onnx"], calibration=data, method="average", samples=256)
        for data in (Reading(), Reading()())
    )
    assert once.report.calibration == again.report.calibration
    assert all(np.array_equal(once.weights[name], array) for name, array in again.weights.items())
