"""Written whole or not at all, and the same bytes each time."""

from __future__ import annotations

import errno
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmerge.errors import InputError
from onnxmerge.model import Network, pair, read_network, save_network
from onnxmerge.model import write as write_module
from onnxmerge.model.digest import tensors_of, weights_digest
from tests.graphs import build, execute, initializers, normal

MLP = "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w)  y = Add(h, b) }"
X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def network() -> Network:
    model = build(MLP, normal(w=(4, 3), b=(3,)), opset=17, ir_version=8)
    model.producer_name, model.doc_string = "somebody", "a model"
    onnx.helper.set_model_props(model, {"author": "me", "method": "none"})
    return read_network(model)


def test_weights_are_told_of_once(network: Network, tmp_path: Path) -> None:
    """ONNX Runtime's dynamic quantiser transposes some under their names, and then disbelieves a second shape."""
    save_network(network.model, {}, tmp_path / "out.onnx", {})
    assert not {value.name for value in onnx.load(tmp_path / "out.onnx").graph.value_info} & {"w", "b"}


def test_keeps_everything_but_the_weights(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    save_network(network.model, {"w": np.ones((4, 3), np.float32)}, path, {"method": "average", "alpha": "0.5"})
    model = onnx.load(path)
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    assert (model.producer_name, model.doc_string) == ("somebody", "a model")
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told.pop("onnxmerge.weights_sha256") == weights_digest(tensors_of(ir.from_proto(model)))
    assert told == {
        "author": "me", "method": "average", "alpha": "0.5",
    }  # fmt: skip
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add"]
    assert (initializers(model)["w"] == 1).all()
    np.testing.assert_array_equal(initializers(model)["b"], network.weights["b"])
    expected = X.sum(1, keepdims=True) + network.weights["b"]
    np.testing.assert_allclose(execute(model, {"x": X})["y"], expected, rtol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]


def test_same_arguments_same_bytes(network: Network, tmp_path: Path) -> None:
    for name, metadata in (("a", {"k": "1", "l": "2"}), ("b", {"l": "2", "k": "1"})):
        save_network(network.model, dict(network.weights), tmp_path / name, metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_reads_weights_one_at_a_time(network: Network, tmp_path: Path) -> None:
    asked = []

    def give(name: str) -> np.ndarray:
        asked.append(name)
        return network.weights[name]

    lazy = {name: (lambda name=name: give(name)) for name in network.weights}
    save_network(network.model, lazy, tmp_path / "out.onnx", {})
    assert asked == ["w", "b"]


def test_half_precision_and_old_versions(tmp_path: Path) -> None:
    for dtype, name, ir_version in (
        (ml_dtypes.bfloat16, "bfloat16", 8),
        (np.float16, "float16", 8),
        (np.float32, "float", 3),
    ):
        weights = {key: array.astype(dtype) for key, array in normal(w=(4, 3), b=(3,)).items()}
        opset = 13 if ir_version > 3 else 8
        model = build(MLP.replace("float", name), weights, opset=opset, ir_version=ir_version, check=False)
        save_network(read_network(model).model, weights, tmp_path / "out.onnx", {})
        again = read_network(tmp_path / "out.onnx")
        assert again.model.ir_version == ir_version
        for key, array in weights.items():
            assert again.weights[key].dtype == dtype
            np.testing.assert_array_equal(again.weights[key], array)


def test_large_models_get_a_data_file(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_module, "EMBEDDED", 0)
    monkeypatch.setattr(write_module, "INLINE", 0)
    path = tmp_path / "out.onnx"
    for factor in (1, 2):  # the second time over the first
        save_network(network.model, {"w": np.full((4, 3), factor, np.float32)}, path, {})
        assert sorted(file.name for file in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
        again = read_network(path)
        assert (again.weights["w"] == factor).all()
        pair([network, again])
        network = again
    save_network(network.model, network.weights, path, {})  # over the file that it is read from
    assert (read_network(path).weights["w"] == 2).all()


def failing_save(network: Network, path: Path, pattern: str, error: type[BaseException] = InputError) -> None:
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(error, match=pattern):
        save_network(network.model, dict(network.weights), path, {})
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_failure_leaves_nothing_behind(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"precious")

    def raising(error: BaseException) -> None:
        def raise_it(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(write_module, "_check", raise_it)

    raising(KeyboardInterrupt())
    failing_save(network, path, "^$", KeyboardInterrupt)
    raising(OSError(errno.ENOSPC, "No space left on device"))
    failing_save(network, path, r"out\.onnx: cannot be written: no space left in .* bytes free")
    raising(PermissionError(errno.EACCES, "Permission denied"))
    failing_save(network, path, r"out\.onnx: cannot be written: Permission denied")


def test_a_failed_second_move_undoes_the_first(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_module, "EMBEDDED", 0)
    monkeypatch.setattr(write_module, "INLINE", 0)
    path = tmp_path / "out.onnx"
    save_network(network.model, {}, path, {"version": "old"})
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target == path:
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with_ones = Network(network.path, network.model.clone(), network.sha256)
    failing_save(with_ones, path, "Input/output error")


def test_refuses_results_that_do_not_open(network: Network, tmp_path: Path) -> None:
    broken = network.model.clone()
    next(iter(broken.graph)).op_type = "Unheard"
    failing_save(Network(None, broken, ""), tmp_path / "out.onnx", "does not open the result.*nothing was written")
    foreign = network.model.clone()
    node = next(iter(foreign.graph))
    node.op_type, node.domain = "Unheard", "my"
    foreign.graph.opset_imports["my"] = 1
    failing_save(Network(None, foreign, ""), tmp_path / "out.onnx", "does not open the result.*nothing was written")


def test_refuses_bad_targets_and_arrays(network: Network, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory"):
        save_network(network.model, {}, tmp_path, {})
    with pytest.raises(InputError, match="its folder does not exist"):
        save_network(network.model, {}, tmp_path / "gone" / "out.onnx", {})
    with pytest.raises(InputError, match="no initializer 'q' to write"):
        save_network(network.model, {"q": X}, tmp_path / "out.onnx", {})
    for array in (np.zeros((3, 4), np.float32), np.zeros((4, 3))):
        with pytest.raises(InputError, match=r"'w' is float32\[4, 3\], but "):
            save_network(network.model, {"w": array}, tmp_path / "out.onnx", {})
    assert not list(tmp_path.iterdir())
