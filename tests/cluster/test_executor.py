"""Stages give the same bytes wherever, and in whatever order, their pieces of work are done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge import merge
from onnxmerge.activations import measuring
from onnxmerge.activations.measuring import SHARD, measure_statistics, shards
from onnxmerge.activations.statistics import GramRequest, MomentRequest, Statistics
from onnxmerge.calibration.sources import open_source
from onnxmerge.calibration.specs import input_specs
from onnxmerge.errors import InputError
from onnxmerge.executor import HERE, Executor, Item, Result, Work
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.pipeline.prepare import load, type_models
from tests.cluster.test_models import Elsewhere
from tests.graphs import build, normal

MLP = """(float[n,6] x) => (float[n,3] y) {
    a = Gemm<transB=1>(x, w1, b1) b = Relu(a) c = Gemm(b, w2, b2) d = Relu(c) y = Gemm(d, w3, b3)
}"""
X = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)


def networks(count: int) -> list[onnx.ModelProto]:
    every = [
        normal(w1=(12, 6), b1=(12,), w2=(12, 10), b2=(10,), w3=(10, 3), b3=(3,), seed=seed) for seed in range(count)
    ]
    return [build(MLP, weights) for weights in every]


@dataclass
class Backwards(Executor):
    """Does the last item first, and counts what it is given."""

    given: list[int] = field(default_factory=list)

    def map(self, work: Work[Item, Result], items: Iterable[Item]) -> Iterator[Result]:
        every = list(items)
        self.given.append(len(every))
        run = work.open()
        yield from reversed([run(item) for item in reversed(every)])


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> Backwards:
    """What ``merge`` takes for a cluster."""
    found = Backwards()

    @contextmanager
    def executor_on(cluster: str | None, *_: object) -> Iterator[Executor]:
        yield HERE if cluster is None else found

    monkeypatch.setattr(import_module("onnxmerge.api.merge"), "executor_on", executor_on)
    return found


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ([], []),
        ([1] * 3, [3]),
        ([SHARD], [1]),
        ([SHARD + 1, 1], [1, 1]),
        ([64, 64, 64], [2, 1]),
        ([100, 100, 100, 100], [2, 2]),
        ([1] * SHARD + [1], [SHARD, 1]),
    ],
)
def test_shards_depend_on_the_data_alone(sizes: Sequence[int], found: Sequence[int]) -> None:
    feeds = [{"x": np.full((size, 1), place)} for place, size in enumerate(sizes)]
    cut = list(shards(feeds))
    assert [len(shard) for shard in cut] == found
    assert [feed for shard in cut for feed in shard] == feeds


def contents(found: Statistics) -> list[bytes]:
    every: list[Any] = [
        array for gram in found.gram.values() for array in (gram.sums, gram.squares, *gram.cross.values())
    ]
    every += [array for moments in found.moments.values() for array in (moments.mean, moments.variance)]
    return [array.tobytes() for array in every]


@pytest.mark.parametrize("batch", [1, 50, 400])
def test_statistics_are_the_same_bytes_elsewhere(batch: int) -> None:
    models = load(networks(2))
    source = open_source(X, input_specs(models.template.model), batch_size=batch)
    prepared = type_models(models, {"x": X[:2]}, None)
    taps = prepared.typing.taps
    requests = [GramRequest(space, names) for space, names in taps.items()]
    requests_and: list[GramRequest | MomentRequest] = [*requests, MomentRequest("a", next(iter(taps)))]

    def measured(executor: Executor) -> Statistics:
        return measure_statistics(
            models.template, models.weights, prepared.typing, requests_and, source, traced=2, executor=executor
        )

    assert contents(measured(Elsewhere())) == contents(measured(HERE)) == contents(measured(Backwards()))


@pytest.mark.parametrize(
    ("models", "settings", "given"),
    [
        (2, {"method": "mudsc-align"}, [3]),
        (2, {"method": "auto"}, [3, len(MATCHERS) - 1, len(MATCHERS) - 1]),  # c2m3 is for three
        (2, {}, [3, 2, 4]),  # networks of their own are not averaged as they stand
        (4, {"method": "rebasin"}, [3]),
        (3, {"method": "c2m3", "samples": 128}, [1, 3]),
    ],
)
def test_merges_are_the_same_bytes_in_another_order(
    backwards: Backwards,
    tmp_path: Path,
    models: int,
    settings: dict[str, Any],
    given: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measuring, "ROWS_OF_SHARD", 1)  # a shard for each 128 samples of a dense network too
    files = []
    for cluster in (None, "here"):
        result = merge(networks(models), calibration=X, cluster=cluster, **settings)
        files.append(result.save(tmp_path / f"{cluster}.onnx").read_bytes())
    assert files[0] == files[1]
    assert [count for count in backwards.given if count != 0][: len(given)] == given


def test_what_a_work_folder_keeps_is_not_given_out_again(backwards: Backwards, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"calibration": X, "method": "auto", "work_dir": tmp_path / "work"}
    merge(networks(2), **settings)  # in this process
    merge(networks(2), cluster="here", **settings)
    assert set(backwards.given) <= {0}


def test_a_candidate_that_cannot_be_merged_is_left_out_wherever_it_is_tried(
    backwards: Backwards, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise InputError("it cannot")

    monkeypatch.setattr("onnxmerge.matching.methods.zipit.zip_together", broken)
    found = [merge(networks(2), calibration=X, method="auto", cluster=each).report.search for each in (None, "here")]
    assert found[0] == found[1]
    assert found[0] is not None
    assert found[0].notes == ("zipit was left out: it cannot",)
    assert backwards.given
