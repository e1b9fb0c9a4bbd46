"""Weights are read when asked for and kept nowhere."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from onnxmerge.errors import InputError
from onnxmerge.model import read_network
from tests.graphs import build, normal

MLP = "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w)  y = Add(h, b) }"


def with_external_data(folder: Path, weights: dict[str, np.ndarray]) -> Path:
    path = folder / "model.onnx"
    onnx.save(
        build(MLP, weights), path, save_as_external_data=True, location="model.data", size_threshold=0,
    )  # fmt: skip
    return path


def test_is_a_mapping_of_read_only_arrays() -> None:
    arrays = normal(w=(4, 3), b=(3,))
    weights = read_network(build(MLP, arrays)).weights
    assert list(weights) == ["w", "b"]
    assert len(weights) == 2
    assert "w" in weights
    assert "h" not in weights
    np.testing.assert_array_equal(weights["w"], arrays["w"])
    with pytest.raises(ValueError, match="read-only"):
        weights["w"][0] = 0
    with pytest.raises(KeyError):
        weights["h"]


def test_gives_each_stored_type() -> None:
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64, np.int8):
        weights = {"w": np.arange(12).reshape(4, 3).astype(dtype)}
        graph = "(int64[n] i) => (y) { y = Gather(w, i) }"
        found = read_network(build(graph, weights, check=False)).weights["w"]
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, weights["w"])


def test_maps_external_data_and_lets_it_go(tmp_path: Path) -> None:
    arrays = normal(w=(4, 3), b=(3,))
    weights = read_network(with_external_data(tmp_path, arrays)).weights
    np.testing.assert_array_equal(weights["w"], arrays["w"])
    descriptors = Path("/proc/self/fd")
    if descriptors.is_dir():
        before = len(list(descriptors.iterdir()))
        for _ in range(20):
            assert weights["w"].shape == (4, 3)
            assert weights.tensor("b").nbytes == 12
        assert len(list(descriptors.iterdir())) == before


def test_says_which_tensor_cannot_be_read(tmp_path: Path) -> None:
    weights = read_network(with_external_data(tmp_path, normal(w=(4, 3), b=(3,)))).weights
    (tmp_path / "model.data").unlink()
    with pytest.raises(InputError, match="tensor 'w' cannot be read"):
        weights["w"]
