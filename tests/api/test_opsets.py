"""Models of every opset: what is added to a graph for measuring, or published, must not depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import onnxmerge
from tests.crossed import some
from tests.graphs import batchnorm, build, execute, initializers, normal

OLDEST = 7
"""From here on ONNX Runtime promises to run models."""

CHANGES = (7, 8, 9, 10, 11, 13, 18)
"""Opsets in which operators that measuring needs got another form; the others are the slow suite's."""

IMAGES = np.random.default_rng(0).standard_normal((24, 2, 17, 17)).astype(np.float32)
"""More positions than are measured: they are thinned out."""

NETWORK = """(float[n,2,17,17] x) => (float[n,3] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1) m = BatchNormalization(a, n_scale, n_bias, n_mean, n_var) r = Relu(m)
    c = Conv<strides=[4,4]>(r, w2, b2) s = Relu(c) p = GlobalAveragePool(s) f = Flatten(p)
    d = Gemm(f, w3, b3) u = Relu(d) y = Gemm(u, w4, b4)
}"""
"""One BatchNormalization kept, one folded away; positions, then rows."""


def _newest() -> int:
    for opset in range(onnx.defs.onnx_opset_version(), OLDEST, -1):
        model = build("(float[n] x) => (float[n] y) { y = Relu(x) }", opset=opset)
        try:
            execute(model, {"x": np.ones(1, np.float32)})
        except ort.capi.onnxruntime_pybind11_state.Fail:
            continue
        return opset
    return OLDEST


NEWEST = _newest()


def network(opset: int, seed: int) -> onnx.ModelProto:
    shapes = {"w1": (6, 2, 3, 3), "w2": (5, 6, 3, 3), "b2": (5,), "w3": (5, 6), "b3": (6,), "w4": (6, 3), "b4": (3,)}
    weights = {**normal(seed=seed, scale=0.5, **shapes), **batchnorm("n", 6, seed=seed)}
    return build(NETWORK, weights, opset=opset, ir_version=8)


def merged(folder: Path, opset: int, **options: Any) -> dict[str, NDArray[Any]]:
    """The merged weights; the merged model is valid and runs at the opset of its parents."""
    path = folder / f"{opset}.onnx"
    onnxmerge.merge([network(opset, 0), network(opset, 1)], calibration={"x": IMAGES}, **options).save(path)
    model = onnx.load(path)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", opset)]
    onnx.checker.check_model(model, full_check=True)
    execute(model, {"x": IMAGES[:2]})
    return initializers(model)


def require_same(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def at_newest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[Any]]:
    return merged(tmp_path_factory.mktemp("newest"), NEWEST)


@pytest.mark.parametrize(
    "opset",
    [pytest.param(n, marks=() if n in CHANGES else pytest.mark.slow) for n in range(OLDEST, NEWEST)],
)
def test_a_merge_is_the_same_at_every_opset(opset: int, at_newest: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    require_same(merged(tmp_path, opset), at_newest)


OPTIONS: dict[str, dict[str, Any]] = {
    "auto": {"method": "auto"},
    "zipit": {"method": "zipit"},
    "c2m3": {"method": "c2m3"},
    "rescale": {"repair": "rescale"},
    "repair": {"repair": "repair"},
    "bias": {"repair": "bias"},
    "ls": {"refine": "ls"},
    "regmean": {"refine": "regmean"},
    "separate heads": {"heads": "separate"},
    "shared": {"share": 0.5},
    "narrower": {"method": "zipit", "width": 0.5},
    "wider": {"method": "zipit", "width": 1.5},
}


@pytest.mark.parametrize("name", some(list(OPTIONS), ["auto", "zipit", "c2m3", "repair", "ls", "regmean", "wider"]))
def test_every_option_at_the_oldest_opset(name: str, tmp_path: Path) -> None:
    require_same(*(merged(tmp_path, opset, **OPTIONS[name]) for opset in (OLDEST, NEWEST)))


def test_an_opset_older_than_arithmetic_that_broadcasts() -> None:
    """ONNX Runtime runs what opset 7 did not redefine; statistics are added all the same."""
    graph = """(float[n,2,8,8] x) => (float[n,3] y) {
        a = Conv(x, w1) r = Relu(a) f = Reshape(r, s) g = MatMul(f, w2) u = Tanh(g) y = MatMul(u, w3)
    }"""
    models = [
        build(
            graph,
            {**normal(seed=seed, scale=0.2, w1=(6, 2, 3, 3), w2=(216, 5), w3=(5, 3)), "s": np.array([-1, 216])},
            opset=6,
            ir_version=8,
        )
        for seed in range(2)
    ]
    found = onnxmerge.merge(models, calibration={"x": IMAGES[:, :, :8, :8]}, method="auto")
    assert found.report.certificates
