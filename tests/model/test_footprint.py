from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.model.footprint import Footprint, footprint
from onnxmerge.model.read import read_network
from onnxmerge.model.trace import trace
from tests.graphs import build

CASES: dict[str, tuple[dict[str, tuple[int, ...]], tuple[int, ...], int]] = {
    "Gemm<transB=1>(x, w)": ({"w": (5, 6)}, (2, 6), 2 * 5 * 6),
    "Gemm<transA=1>(t, w)": ({"w": (2, 5)}, (2, 6), 2 * 6 * 2 * 5 // 2),
    "MatMul(x, w)": ({"w": (6, 5)}, (2, 3, 6), 2 * 3 * 6 * 5),
    "Conv<group=2, pads=[1,1,1,1]>(x, w)": ({"w": (6, 2, 3, 3)}, (2, 4, 5, 5), 2 * 25 * 6 * 2 * 9),
    "ConvTranspose<strides=[2,2]>(x, w)": ({"w": (4, 3, 2, 2)}, (2, 4, 5, 5), 2 * 25 * 4 * 3 * 4),
    "Relu(x)": ({}, (2, 6), 0),
}


@pytest.mark.parametrize("node", CASES)
def test_parameters_and_operations(node: str) -> None:
    shapes, size, flops = CASES[node]
    declared = ",".join(["n", *map(str, size[1:])])
    graph = f"(float[{declared}] x) => (y) {{ t = Identity(x) y = {node} }}"
    weights = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    network = read_network(build(graph, weights, check=False))
    found = footprint(network, trace(network, {"x": np.ones(size, np.float32)}).shapes, batch=2)
    assert found == Footprint(sum(int(np.prod(shape)) for shape in shapes.values()), flops)
