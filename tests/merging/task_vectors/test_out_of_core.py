"""Large tensors: some entries or one matrix at a time, several at once, and what comes out is the same."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge import merge, threads
from onnxmerge.executor import cores
from onnxmerge.merging.task_vectors import TASK_VECTORS, TaskVectors
from onnxmerge.merging.task_vectors import vectors as task_vectors
from onnxmerge.merging.task_vectors.vectors import mean_vector, of_arrays
from tests.command_line import Cli
from tests.graphs import build, normal
from tests.merging.task_vectors.test_methods import added

RNG = np.random.default_rng(0)
GRAPH = """(float[n,6] x) => (float[n,3] y) {
    h = Gemm<transB=1>(x, w, b)
    r = Relu(h)
    m = MatMul(r, v)
    y = Add(m, c)
}"""


def rule(name: str, vectors: TaskVectors) -> NDArray[np.float64]:
    method = TASK_VECTORS[name]
    return np.asarray(method.rule(vectors, method.options()))


@pytest.mark.parametrize("name", [name for name, method in TASK_VECTORS.items() if method.models != 2])
@pytest.mark.parametrize("size", [1, 7, 35, 1000])
def test_entries_by_parts_are_those_of_the_whole(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = of_arrays(RNG.standard_normal((3, 7, 5)))
    whole, mean = rule(name, vectors), mean_vector(vectors)
    monkeypatch.setattr(task_vectors, "ENTRIES", size)
    np.testing.assert_array_equal(rule(name, vectors), whole)
    np.testing.assert_array_equal(mean_vector(vectors), mean)


@pytest.mark.parametrize("name", ["task-arithmetic", "ties", "tsv-m"])
def test_masks_stay_masks_in_every_part(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = {"w": np.array([1, -np.inf, 2, 3], np.float32)}
    tuned = [{"w": np.array([2, -np.inf, -np.inf, 3], np.float32)}, {"w": np.array([3, 1, 2, 4], np.float32)}]
    whole = added(name, base, *tuned)
    monkeypatch.setattr(task_vectors, "ENTRIES", 1)
    np.testing.assert_array_equal(added(name, base, *tuned), whole)
    np.testing.assert_array_equal(np.isneginf(whole), [False, True, True, False])


def networks(count: int) -> list[onnx.ModelProto]:
    def values(seed: int) -> dict[str, NDArray[Any]]:
        return normal(w=(8, 6), b=(8,), v=(8, 3), c=(3,), seed=seed)

    start = values(0)
    return [
        build(GRAPH, {name: own + np.float32(0.1) * values(seed)[name] for name, own in start.items()})
        for seed in range(1, count + 1)
    ]


@pytest.mark.parametrize("name", TASK_VECTORS)
def test_bytes_do_not_depend_on_the_number_of_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = TASK_VECTORS[name]
    if "labels" in method.needs:
        pytest.skip("chooses by labels")
    base, *tuned = networks(method.models + 1 if method.models else 4)
    monkeypatch.setattr(threads, "SMALL_BYTES", 0)
    found = []
    for workers in (1, 4):
        token = cores.set(workers)
        merged = merge(tuned, base=base if method.takes_base else None, method=name).weights
        found.append({each: merged[each].tobytes() for each in merged})
        cores.reset(token)
    assert found[0] == found[1]


ORDERED = {name for name, method in TASK_VECTORS.items() if "labels" not in method.needs} - {"dare", "della"}


@pytest.mark.parametrize("name", sorted(ORDERED))
def test_the_order_of_the_models_does_not_matter(name: str) -> None:
    """But for methods that draw random numbers for one model after the other."""
    base, *tuned = networks(3)
    given = base if TASK_VECTORS[name].takes_base else None
    one, other = (merge(models, base=given, method=name).weights for models in (tuned, tuned[::-1]))
    for each in one:
        np.testing.assert_allclose(one[each], other[each], atol=1e-5)


def test_every_tensor_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the look at what it answers, and to be written."""
    calls: list[tuple[int, ...]] = []
    tsv_m = TASK_VECTORS["tsv-m"]

    def counted(vectors: TaskVectors, options: Any) -> NDArray[np.float64]:
        calls.append(vectors.shape)
        return np.asarray(tsv_m.rule(vectors, options))

    registry = {**TASK_VECTORS, "tsv-m": replace(tsv_m, rule=counted)}
    monkeypatch.setattr("onnxmerge.pipeline.options.TASK_VECTORS", registry)
    base, *tuned = networks(3)
    merge(tuned, base=base, method="tsv-m").save(tmp_path / "m.onnx")
    assert sorted(calls) == [(3, 8), (8, 6)]


@pytest.mark.parametrize("name", [name for name, method in TASK_VECTORS.items() if method.models != 2])
@pytest.mark.parametrize("shape", [(96, 384), (384, 96), (128, 128)])
def test_a_rule_takes_about_the_memory_that_it_says(name: str, shape: tuple[int, int]) -> None:
    stack = RNG.standard_normal((8, *shape), np.float32)
    vectors = TaskVectors("w", shape, [1.0] * 8, lambda index: stack[index].astype(np.float64))
    rule(name, vectors)  # what is imported on the way
    tracemalloc.start()
    rule(name, vectors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 2 * TASK_VECTORS[name].takes(*shape, 8)


def test_a_disk_without_room_changes_nothing(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{index}.onnx" for index in range(3)]
    for path, network in zip(paths, networks(3), strict=True):
        onnx.save(network, path)
    given = ["run", *map(str, paths[1:]), "--base", str(paths[0]), "--method", "tsv-m"]
    assert cli(*given, "-o", str(tmp_path / "kept.onnx")).returncode == 0
    monkeypatch.setattr("onnxmerge.model.kept_weights._file", lambda _: None)
    cli(*given, "-o", str(tmp_path / "anew.onnx"))
    assert (tmp_path / "kept.onnx").read_bytes() == (tmp_path / "anew.onnx").read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {".onnx"}
