"""How often a merge reads its data: each feed of it once, as long as there is room to keep it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import onnxmerge
from tests.graphs import build, normal

MLP = "(float[n,6] x) => (float[n,3] y) { h = Gemm(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }"
PAIR = [build(MLP, normal(w1=(6, 8), b1=(8,), w2=(8, 3), b2=(3,), seed=seed)) for seed in range(2)]
FEEDS = 20


class Reading:
    """Feeds of 16 samples; ``read`` counts those that were given."""

    def __init__(self) -> None:
        self.x = np.random.default_rng(0).normal(size=(FEEDS, 16, 6)).astype(np.float32)
        self.read = 0

    def __call__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        for batch in self.x:
            self.read += 1
            yield {"x": batch}


def test_the_default_reads_each_feed_once() -> None:
    data = Reading()
    result = onnxmerge.merge(PAIR, calibration=data)
    assert result.report.effort is not None
    assert len(result.report.effort.ways) > 1
    assert data.read == FEEDS


def test_a_generator_will_do_where_it_can_be_kept() -> None:
    again, once = (
        onnxmerge.merge(PAIR, calibration=data, method="average", samples=256) for data in (Reading(), Reading()())
    )
    assert once.report.calibration == again.report.calibration
    assert all(np.array_equal(once.weights[name], array) for name, array in again.weights.items())
