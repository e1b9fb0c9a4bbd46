"""Networks in float64: as numpy computes them, and from float16 and bfloat16 as well."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.model.read import read_network
from onnxmerge.validation.double import run_in_double
from tests.graphs import build, normal


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_float_becomes_double(dtype: type) -> None:
    kind = {"float32": "float"}.get(np.dtype(dtype).name, np.dtype(dtype).name)
    graph = f"""({kind}[n,4] x, int64 k) => ({kind}[n,3] y, int64 l) {{
        h = MatMul(x, w) c = Constant<value = float {{3.0}}>()
        d = Cast<to = {TYPES[kind]}>(c) y = Mul(h, d) l = Identity(k)
    }}"""
    weights: dict[str, NDArray[Any]] = {name: value.astype(dtype) for name, value in normal(w=(4, 3)).items()}
    network = read_network(build(graph, weights))
    feed = {"x": np.ones((2, 4), dtype), "k": np.array(5)}
    (found,) = run_in_double(network, network.weights, ["y", "l"], [feed])
    assert found["y"].dtype == np.float64
    assert found["l"] == 5
    expected = 3 * np.ones((2, 4)) @ weights["w"].astype(np.float64)
    np.testing.assert_allclose(found["y"], expected, rtol=1e-15)


TYPES = {"float": 1, "float16": 10, "bfloat16": 16}
"""Of onnx.TensorProto."""
