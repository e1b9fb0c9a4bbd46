"""``--scale auto`` and ``--depth auto``: what is added to a base in the amount that its parents are heard best at."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge import UsageError, merge
from onnxmerge.merging.task_vectors import ParameterRule, Scaled
from onnxmerge.pipeline.selection.scaling import DEPTHS, STEPS, _scaled
from tests.graphs import build, normal

GRAPH = """(float[n,16] x) => (float[n,6] y) {
    h = Gemm<transB=1>(x, w1, b1)
    r = Relu(h)
    g = Gemm<transB=1>(r, w2, b2)
    t = Relu(g)
    y = Gemm<transB=1>(t, w3, b3)
}"""
SHAPES = {"w1": (24, 16), "b1": (24,), "w2": (24, 24), "b2": (24,), "w3": (6, 24), "b3": (6,)}
BASE = normal(seed=0, scale=0.3, **SHAPES)


def tuned(seed: int, size: float) -> dict[str, NDArray[np.float32]]:
    """The base with one direction changed in its last layer."""
    rng = np.random.default_rng(seed)
    change = size * np.outer(rng.standard_normal(6), rng.standard_normal(24)) / 24
    return {**BASE, "w3": (BASE["w3"] + change).astype(np.float32)}


def network(weights: dict[str, NDArray[np.float32]]) -> onnx.ModelProto:
    return build(GRAPH, weights)


def data(count: int = 300) -> NDArray[np.float32]:
    return np.random.default_rng(9).standard_normal((count, 16)).astype(np.float32)


def merged(**options: Any) -> Any:
    parents = [network(tuned(seed, 2.0)) for seed in (1, 2)]
    given = {"method": "task-arithmetic", "calibration": {"x": data()}, "outputs": "features", **options}
    return merge(parents, base=network(BASE), **given)


def test_a_scale_is_chosen_and_said() -> None:
    report = merged(scale="auto").report
    assert len(report.scales.candidates) == len(STEPS)
    best = report.scales.candidates[report.scales.chosen]
    assert best.agreement == max(each.agreement for each in report.scales.candidates)
    assert report.scale == best.scale
    assert best.depth == 0
    assert '"scale":"auto"' in report.recipe
    assert report.held_out


def near(seed: int) -> dict[str, NDArray[np.float32]]:
    """The base, every tensor of it changed a little."""
    moved = normal(seed=seed, scale=0.3, **SHAPES)
    return {name: array + np.float32(0.2) * moved[name] for name, array in BASE.items()}


def test_the_result_is_that_of_the_scale_which_was_chosen() -> None:
    found = merged(scale="auto", depth="auto")
    own = found.report.method_options
    again = merged(scale=own["scale"], depth=own["depth"])
    assert len(found.report.scales.candidates) == len(DEPTHS) + len(STEPS)
    assert again.report.scales is None
    for name in SHAPES:
        np.testing.assert_array_equal(found.weights[name], again.weights[name])


def test_equal_parents_agree_at_any_scale_so_that_the_first_serves() -> None:
    one = network(tuned(1, 2.0))
    report = merge(
        [one, one], base=network(BASE), method="tsv-m", scale="auto", calibration={"x": data()}, outputs="features"
    ).report
    assert report.scales is not None
    assert all(each.agreement == pytest.approx(1, abs=1e-4) for each in report.scales.candidates)


def test_candidates_are_what_the_method_gives_at_that_scale() -> None:
    """What is tried is put together from one merge; labelled so by hand here, for each depth."""
    rules = (ParameterRule("b3", 0.25),)
    depths = {"w1": 0.0, "b1": 0.0, "w2": 0.5, "b2": 0.5, "w3": 1.0, "b3": 1.0}
    parents = [network(near(seed)) for seed in (3, 4)]
    unit = merge(parents, base=network(BASE), method="tsv-m", scale=1.0, parameters=rules).weights
    for scale, depth in ((0.5, 0.0), (1.5, 0.4)):
        own = Scaled(scale=scale, depth=depth, parameters=rules)
        exact = merge(parents, base=network(BASE), method="tsv-m", scale=scale, depth=depth, parameters=rules).weights
        for name in SHAPES:
            tried = _scaled(BASE, dict(unit), own, depths, name)
            np.testing.assert_allclose(tried, exact[name], atol=1e-6)


def test_scales_by_pattern_hold_whatever_the_scale() -> None:
    rules = (ParameterRule("w*", 0.5), ParameterRule("w3", 1.0))
    parents = [near(seed) for seed in (3, 4)]
    found = merge(
        [network(each) for each in parents], base=network(BASE), method="task-arithmetic", scale=0.0, parameters=rules
    ).weights
    learnt = {name: sum(each[name] - BASE[name] for each in parents) for name in SHAPES}
    for name, scale in (("w1", 0.5), ("w2", 0.5), ("w3", 1.0), ("b1", 0.0)):
        np.testing.assert_allclose(found[name], BASE[name] + scale * learnt[name], atol=1e-5)


def test_depth_takes_from_the_first_layers_and_gives_to_the_last() -> None:
    parents = [near(seed) for seed in (3, 4)]
    found = merge(
        [network(each) for each in parents], base=network(BASE), method="task-arithmetic", scale=0.5, depth=0.5
    ).weights
    for name, scale in (("w1", 0.25), ("b1", 0.25), ("w2", 0.5), ("w3", 0.75), ("b3", 0.75)):
        learnt = sum(each[name] - BASE[name] for each in parents)
        np.testing.assert_allclose(found[name], BASE[name] + scale * learnt, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "auto", "calibration": None, "outputs": None}, r"--scale auto and --depth auto .*\(--calib\)"),
        ({"scale": "best"}, "--scale: expected a finite number, or auto"),
        ({"depth": 2.0}, "--depth: expected a number from -1 to 1, or auto"),
        ({"parameters": (ParameterRule("layer9.*", 0.3),)}, "no initializer of .* has such a name"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _ = merged(**options).weights["w1"]


def test_a_method_around_the_mean_has_no_scale_to_search() -> None:
    parents = [network(tuned(seed, 2.0)) for seed in (1, 2)]
    with pytest.raises(UsageError, match="--scale: expected a finite number, found"):
        merge(parents, method="cart", scale="auto", calibration={"x": data()})
