"""The plane through two networks and their merge: what stands at its corners, and the line between the parents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import scipy

import onnxmerge
from onnxmerge import InputError, Landscape, UsageError
from onnxmerge.evaluation.task import Task
from onnxmerge.model.exposed import Exposed
from onnxmerge.model.read import read_network
from onnxmerge.pipeline import landscape as stage
from onnxmerge.pipeline.landscape import Corners, plane_of
from onnxmerge.pipeline.landscape_tasks import ByParents
from onnxmerge.report.landscape import landscape_svg, print_landscape
from onnxmerge.types import Array, Arrays
from tests.graphs import batchnorm, build, execute, normal

GRAPH = """(float[n,4] x) => (float[n,3] y) {
    h = Gemm(x, w, b)  n = BatchNormalization(h, n_scale, n_bias, n_mean, n_var)  r = Relu(n)  y = Gemm(r, v, c)
}"""
RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 4)).astype(np.float32)
LABELS = RNG.integers(0, 3, 40)


def weights(seed: int) -> dict[str, Array]:
    return {**normal(w=(4, 6), b=(6,), v=(6, 3), c=(3,), seed=seed), **batchnorm("n", 6, seed=seed)}


def network(arrays: Arrays, graph: str = GRAPH) -> onnx.ModelProto:
    return build(graph, arrays)


def reordered(arrays: Arrays, order: list[int]) -> dict[str, Array]:
    """The same function with its hidden units in another order."""
    return {
        name: array if name == "c" else array[..., order] if name != "v" else array[order]
        for name, array in arrays.items()
    }


def mean(one: Arrays, other: Arrays) -> dict[str, Array]:
    return {name: ((one[name].astype(np.float64) + other[name]) / 2).astype(np.float32) for name in one}


A, B = weights(1), weights(2)
MERGED = {**mean(A, B), "v": weights(3)["v"]}
ORDER = [3, 5, 0, 1, 4, 2]


def seen(a: Arrays, b: Arrays, merged: Arrays, **settings: Any) -> Landscape:
    settings = {"labels": LABELS, "points": 3, "method": "rebasin", **settings}
    return onnxmerge.landscape(network(a), network(b), network(merged), {"x": X}, **settings)


def cross_entropy(arrays: Arrays) -> float:
    """Of the file itself, in ONNX Runtime."""
    logits = execute(network(arrays), {"x": X})["y"].astype(np.float64)
    return float(-scipy.special.log_softmax(logits, axis=1)[np.arange(40), LABELS].mean())


def divergence(right: Arrays, found: Arrays) -> float:
    own, other = (
        scipy.special.log_softmax(execute(network(each), {"x": X})["y"].astype(np.float64), axis=1)
        for each in (right, found)
    )
    return float((np.exp(own) * (own - other)).sum(axis=1).mean())


def test_the_three_networks_come_back_bit_by_bit_at_their_points() -> None:
    mask = np.array([0, -np.inf], np.float32)
    one, other, merged = (
        {**each, "mask": mask, "steps": np.arange(3), "scale": np.array(scale, np.float32)}
        for scale, each in enumerate((A, B, MERGED))
    )
    plane = plane_of(one, other, merged)
    corners = Corners((one, other, merged, other), plane, frozenset({"n_var"}), ())
    for place, expected in (((0, 0), one), ((1, 0), other), (plane.merged, merged)):
        found = corners.at((*plane.shares(*place), 0))
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    far = corners.at((*plane.shares(-9, 0), 0))
    assert far["n_var"].min() == 0
    assert np.array_equal(far["mask"], mask)
    assert np.allclose(far["w"], 10 * A["w"] - 9 * B["w"], atol=1e-5)
    with pytest.raises(InputError, match="steps"):
        _ = Corners((one, {**other, "steps": np.ones(3, int)}, merged, other), plane, frozenset(), ()).at(
            (0.5, 0.5, 0, 0)
        )["steps"]


def test_coordinates_are_euclidean() -> None:
    plane = plane_of(A, B, MERGED)
    flat = [np.concatenate([each[name].ravel() for name in A]).astype(np.float64) for each in (A, B, MERGED)]
    apart = [np.linalg.norm(flat[one] - flat[other]) for one, other in ((0, 1), (0, 2), (1, 2))]
    x, y = plane.merged
    assert plane.distance == pytest.approx(apart[0])
    assert [plane.distance * np.hypot(x, y), plane.distance * np.hypot(x - 1, y)] == pytest.approx(apart[1:])


def test_losses_at_the_corners_are_those_of_the_files() -> None:
    found = seen(A, reordered(B, ORDER), MERGED, method="average")
    (surface,) = found.surfaces
    assert surface.marks == pytest.approx([cross_entropy(A), cross_entropy(B), cross_entropy(MERGED)], rel=1e-5)
    assert (surface.before[0], surface.before[-1]) == pytest.approx(tuple(surface.marks[:2]))
    assert surface.constant == pytest.approx(scipy.special.entr(np.bincount(LABELS) / len(LABELS)).sum())
    assert (found.samples, found.networks) == (40, 3 + 2 + 1 + 9)


def test_a_grid_point_is_the_network_there() -> None:
    found = seen(A, B, MERGED, method="average")
    one, other, merged = found.plane.shares(found.xs[1], found.ys[2])
    there = {
        name: (one * A[name].astype(np.float64) + other * B[name] + merged * MERGED[name]).astype(np.float32)
        for name in A
    }
    there["n_var"] = np.maximum(there["n_var"], 0)
    assert found.surfaces[0].plane[2, 1] == pytest.approx(cross_entropy(there), rel=1e-4)


def test_a_permuted_copy_has_a_barrier_until_it_is_matched() -> None:
    found = seen(A, reordered(A, ORDER), A, labels=None, outputs="logits")
    for surface in found.surfaces:
        before, after = surface.barriers
        assert before > 0.01
        assert after == pytest.approx(0, abs=1e-9)
    for again in (found, seen(A, {**reordered(A, ORDER), "c": A["c"] + np.float32(1e-6)}, MERGED)):
        assert again.xs.size == 0
        assert any("one network" in note for note in again.notes)


@pytest.mark.parametrize("moved", ["second", "merged"])
def test_orders_of_units_do_not_matter(moved: str) -> None:
    """The merge is in the units of the first, whatever the second's; one that is not is brought there."""
    plain = seen(A, B, merged := onnx_mean())
    second, third = (reordered(B, ORDER), merged) if moved == "second" else (B, reordered(merged, ORDER))
    found = seen(A, second, third)
    assert found.plane.merged == pytest.approx(plain.plane.merged)
    for own, theirs in zip(found.surfaces, plain.surfaces, strict=True):
        assert own.marks == pytest.approx(theirs.marks, rel=1e-5)
        assert np.allclose(own.plane, theirs.plane, rtol=1e-4)
    assert any("order of its own" in note for note in found.notes) == (moved == "merged")
    assert not any("order of its own" in note for note in plain.notes)


@pytest.mark.parametrize("method", ["rebasin", "mudsc-align"])
def test_a_plain_average_is_midway_whatever_it_was_made_on(
    digits: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other batches and a repair lead the method to another order of the second than the merge has inside."""
    one, other, data = digits / "a.onnx", digits / "b.onnx", digits / "calib.npz"
    merged = tmp_path / "m.onnx"
    onnxmerge.merge([one, other], calibration=data, samples=300, method=method, repair="none").save(merged)
    found = onnxmerge.landscape(one, other, merged, data, method=method, points=2, samples=16)
    assert found.plane.merged == pytest.approx((0.5, 0), abs=1e-3)
    assert found.to_merge
    print_landscape(found, ())
    assert f"weights, to the merge: b.onnx is nearer to it than by {method}\n" in capsys.readouterr().out


def test_a_method_that_matches_nothing_leaves_the_second_in_its_order() -> None:
    found = seen(A, reordered(B, ORDER), mean(A, B), method="average")
    assert not found.to_merge
    assert found.plane.merged != pytest.approx((0.5, 0), abs=1e-3)


def onnx_mean() -> dict[str, Array]:
    """A merge by the tool, off the line for its last layer."""
    merged = onnxmerge.merge([network(A), network(B)], method="rebasin")
    return {**{name: np.array(merged.weights[name]) for name in A}, "c": normal(c=(3,), seed=5)["c"]}


def test_without_labels_the_parents_are_what_is_right() -> None:
    found = seen(A, B, MERGED, labels=None, method="average", outputs="logits")
    first, second, overlap = found.surfaces
    assert first.marks == pytest.approx([0, divergence(A, B), divergence(A, MERGED)], rel=1e-4, abs=1e-9)
    assert second.marks == pytest.approx([divergence(B, A), 0, divergence(B, MERGED)], rel=1e-4, abs=1e-9)
    worst = np.maximum(first.plane / first.constant, second.plane / second.constant)
    assert overlap.name == "overlap"
    assert "output 'y': logits (as --outputs says)" in found.notes
    assert np.allclose(overlap.plane, worst)


@pytest.mark.parametrize("outputs", ["regression", "embedding"])
def test_numbers_are_compared_by_squared_error(outputs: str) -> None:
    first, *_ = seen(A, B, MERGED, labels=None, method="average", outputs=outputs).surfaces
    own, other = (execute(network(each), {"x": X})["y"].astype(np.float64) for each in (A, B))
    if outputs == "embedding":
        own, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (own, other))
    assert first.marks[1] == pytest.approx(np.square(own - other).mean(), rel=1e-4)
    assert first.constant == pytest.approx(own.var(axis=0).mean(), rel=1e-4)


def test_what_parents_do_not_answer_counts_nowhere() -> None:
    """The square root of a negative number is none, of three samples."""
    more = "q = Gemm(r, v, c)  s = Sqrt(x)  o = ReduceSum<keepdims=1>(s, axis)  y = Add(q, o)"
    graph = GRAPH.replace("y = Gemm(r, v, c)", more)
    a, b, merged = (network({**each, "axis": np.array([1])}, graph) for each in (A, B, MERGED))
    data, positive = X.copy(), np.abs(X)
    data[3:] = positive[3:]
    data[:3, 0] = -1
    for outputs in ("regression", "logits"):
        settings: dict[str, Any] = {"points": 2, "method": "average", "outputs": outputs}
        found = onnxmerge.landscape(a, b, merged, {"x": data}, **settings)
        alone = onnxmerge.landscape(a, b, merged, {"x": positive[3:]}, **settings)
        for own, other in zip(found.surfaces, alone.surfaces, strict=True):
            assert own.marks == pytest.approx(other.marks, rel=1e-5, abs=1e-12)
            assert own.constant == pytest.approx(other.constant)
        assert any("3 of 40 answers of output 'y' are not wholly finite" in note for note in found.notes)


def test_regressions_and_samples_without_a_label() -> None:
    targets = {"y": np.where(np.arange(120).reshape(40, 3) % 7, 1.0, np.nan)}
    tasks = [Task("y", "regression")]
    (surface,) = seen(A, B, MERGED, labels=targets, tasks=tasks, method="average").surfaces
    own = execute(network(A), {"x": X})["y"]
    assert surface.marks[0] == pytest.approx(np.nanmean(np.square(own - targets["y"])), rel=1e-5)
    some = np.where(np.arange(40) < 9, LABELS, -1)
    (surface,) = seen(A, B, MERGED, labels=some, method="average").surfaces
    logits = scipy.special.log_softmax(execute(network(A), {"x": X})["y"][:9], axis=1)
    assert surface.marks[0] == pytest.approx(-logits[np.arange(9), LABELS[:9]].mean(), rel=1e-5)


def test_a_fixed_batch_leaves_out_what_fills_none() -> None:
    a, b, merged = (build(GRAPH.replace("[n,", "[16,"), each) for each in (A, B, MERGED))
    found = onnxmerge.landscape(a, b, merged, {"x": X}, labels=LABELS, points=2, method="average")
    assert found.samples == 32


def test_samples_without_a_label_of_a_task_are_refused() -> None:
    some = np.where(np.arange(40) < 4, LABELS, -1)
    with pytest.raises(InputError, match=r"none of the 8 samples that networks run on \(--samples\)"):
        seen(A, B, MERGED, labels=some, batch_size=4, samples=8)


def test_a_merge_on_the_line_has_no_plane() -> None:
    found = seen(A, B, mean(A, B), method="average")
    assert found.plane.merged == pytest.approx((0.5, 0), abs=1e-3)
    assert found.xs.size == 0
    assert found.to_csv().count("plane") == 0
    assert landscape_svg(found).count('class="name"') == 1
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["surfaces"][0]["plane"] == []


def test_feeds_at_once_and_one_by_one_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = seen(A, B, MERGED, batch_size=20)
    monkeypatch.setattr(stage, "TOGETHER", 0)
    assert at_once.to_csv() == seen(A, B, MERGED, batch_size=20).to_csv()


def test_other_data_to_match_on() -> None:
    found = seen(A, B, MERGED, method="mudsc-align", calibration={"x": X[:20]})
    assert found.samples == 40


def test_losses_that_are_no_number_are_infinite() -> None:
    huge = {**A, "v": A["v"] * np.float32(2e37)}
    found = seen(A, B, huge, labels=None, outputs="regression", method="average")
    (rows, columns) = np.nonzero(np.isinf(found.surfaces[0].plane))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["surfaces"][0]["plane"][rows[0]][columns[0]] == "inf"
    assert "nan" not in landscape_svg(found)


def test_losses_need_an_output_of_floats() -> None:
    graph = "(float[n,4] x) => (int64[n] y) { h = MatMul(x, w)  y = ArgMax<axis=1, keepdims=0>(h) }"
    exposed = Exposed(read_network(build(graph, normal(w=(4, 3)))))
    with pytest.raises(InputError, match="no output of floats"):
        _ = ByParents(exposed, (), {}, "cpu").names


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"method": "zipit"}, "brings no model to another"),
        ({"points": 1}, "at least 2 points"),
        ({"labels": None, "tasks": "t.json"}, "give the labels too"),
    ],
)
def test_contradictions(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        seen(A, B, MERGED, **settings)
