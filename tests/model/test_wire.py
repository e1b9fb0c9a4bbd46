"""Large files are read without their data and written tensor by tensor: the same models, the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from onnxmerge.errors import InputError
from onnxmerge.model import read, read_network, save_network, wire, write
from onnxmerge.model.read import data_files
from tests.graphs import build

TEXT = "(float[n,4] x) => (float[n,4] y) { h = MatMul(x, w)  s = Cast<to=1>(u)  y = Add(h, s) }"


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small files be treated as large ones."""
    for module in (read, write):
        monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr(write, "INLINE", 16)
    monkeypatch.setattr(wire, "LEAST", 16)


def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights: Any = {"w": rng.standard_normal((4, 4)).astype(np.float32), "u": rng.standard_normal(4).astype(np.float16)}
    found = build(TEXT, weights)
    found.doc_string, found.graph.doc_string = "a model", "its graph"
    found.graph.initializer[0].doc_string = "weights"
    onnx.helper.set_model_props(found, {"author": "me"})
    return found


def test_a_large_file_is_read_as_any_other(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(), path)
    small = read_network(path)
    request.getfixturevalue("large")
    found = read_network(path)
    assert found.sha256 == small.sha256
    assert found.weights.tensor("w").nbytes == 64
    assert type(found.weights.tensor("w")) is not type(small.weights.tensor("w"))
    for name, array in small.weights.items():
        np.testing.assert_array_equal(found.weights[name], array)
    assert data_files(path) == set()


def test_a_large_file_is_written_as_any_other(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    network = read_network(tmp_path / "m.onnx")
    weights = {"w": np.full((4, 4), 2, np.float32)}
    save_network(network.model, weights, tmp_path / "small.onnx", {"k": "1"})
    request.getfixturevalue("large")
    save_network(read_network(tmp_path / "m.onnx").model, weights, tmp_path / "large.onnx", {"k": "1"})
    assert (tmp_path / "large.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large.onnx", "m.onnx", "small.onnx"]


def test_bfloat16_is_written_as_any_other(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    weights = {"w": np.ones((4, 4), np.float32), "u": np.ones(16, ml_dtypes.bfloat16)}
    onnx.save(
        build(TEXT.replace("n,4] y", "n,16] y"), weights | {"w": np.ones((4, 16), np.float32)}), tmp_path / "m.onnx"
    )
    save_network(read_network(tmp_path / "m.onnx").model, {}, tmp_path / "small.onnx", {})
    request.getfixturevalue("large")
    save_network(read_network(tmp_path / "m.onnx").model, {}, tmp_path / "large.onnx", {})
    assert (tmp_path / "large.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()


def wrong_size(found: onnx.ModelProto) -> None:
    found.graph.initializer[0].dims[0] = 5


def wrong_type(found: onnx.ModelProto) -> None:
    found.graph.initializer[0].data_type = 99


def outside(found: onnx.ModelProto) -> None:
    found.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("spoil", [wrong_size, wrong_type, outside])
def test_what_is_odd_about_a_tensor_is_said_as_of_a_small_file(
    spoil: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(spoil)
    found = model()
    spoil(found)
    path = tmp_path / "m.onnx"
    path.write_bytes(found.SerializeToString())
    with pytest.raises(InputError) as large:
        read_network(path)
    monkeypatch.setattr(read, "LARGE", 10**9)
    with pytest.raises(InputError) as small:
        read_network(path)
    assert str(large.value) == str(small.value)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("cut", [1, 10, 100, 200])
def test_a_large_file_that_is_cut_off_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString()[:-cut])
    with pytest.raises(InputError, match="cut off"):
        read_network(path)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("name", ["a:b.onnx", "é.onnx", "a b.onnx"])
def test_any_name_of_a_large_file_will_do(name: str, tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / name)
    assert read_network(tmp_path / name).weights["w"].shape == (4, 4)


@pytest.mark.usefixtures("large")
def test_a_large_file_that_is_changed_meanwhile_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(), path)
    network = read_network(path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="was changed meanwhile"):
        network.weights["w"]


@pytest.mark.usefixtures("large")
def test_a_link_to_a_large_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    onnx.save(model(), tmp_path / "blobs" / "1234")
    (tmp_path / "m.onnx").symlink_to(tmp_path / "blobs" / "1234")
    assert read_network(tmp_path / "m.onnx").weights["w"].shape == (4, 4)
    assert data_files(tmp_path / "m.onnx") == set()
