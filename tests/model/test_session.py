"""Sessions over other weights and outputs, and one line for everything that ONNX Runtime does not accept."""

from __future__ import annotations

import contextvars
import functools
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from onnxmerge.errors import InputError, ResourceError, UsageError
from onnxmerge.executor import cores
from onnxmerge.model import open_session, read_network
from onnxmerge.model.runtime import SessionOptions
from onnxmerge.model.runtimes import available, onnx_runtime
from onnxmerge.model.write import save_network
from tests import graphs
from tests.graphs import execute, normal

build = functools.partial(graphs.build, check=False)  # most outputs here are written without their types

MLP = "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w)  y = Add(h, b) }"
X = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_replaces_weights_and_outputs_without_changing_the_model() -> None:
    arrays = normal(w=(4, 3), b=(3,))
    network = read_network(build(MLP, arrays))
    other = np.ones((4, 3), np.float32)
    found = open_session(network.model, weights={"w": other}, outputs=["h", "y"]).run({"x": X})
    np.testing.assert_allclose(found["h"], X @ other)
    np.testing.assert_allclose(found["y"], X @ other + arrays["b"])
    assert [value.name for value in network.graph.outputs] == ["y"]
    np.testing.assert_array_equal(network.weights["w"], arrays["w"])
    assert list(open_session(network.model).run({"x": X})) == ["y"]


def test_runs_only_what_the_outputs_need() -> None:
    network = read_network(build(MLP, normal(w=(4, 3), b=(3,))))
    session = open_session(network.model, outputs=["h"])
    assert session.outputs == ("h",)
    assert set(session.run({"x": X})) == {"h"}


def test_streams_large_models_and_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = normal(w=(4, 3), b=(3,))
    model = build(MLP, arrays)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    network = read_network(tmp_path / "m.onnx")
    expected = execute(build(MLP, arrays), {"x": X})["y"]
    np.testing.assert_array_equal(open_session(network.model).run({"x": X})["y"], expected)
    monkeypatch.setattr(onnx_runtime, "IN_MEMORY", 0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    np.testing.assert_array_equal(open_session(network.model).run({"x": X})["y"], expected)


def test_runs_float16() -> None:
    arrays = {name: array.astype(np.float16) for name, array in normal(w=(4, 3), b=(3,)).items()}
    network = read_network(build(MLP.replace("float", "float16"), arrays))
    assert open_session(network.model).run({"x": X.astype(np.float16)})["y"].dtype == np.float16


def test_runs_bfloat16_in_float32() -> None:
    arrays = {name: array.astype(ml_dtypes.bfloat16) for name, array in normal(w=(4, 3), b=(3,)).items()}
    graph = """(bfloat16[n,4] x) => (bfloat16[n,3] y) {
        h = MatMul(x, w)  f = Cast<to=1>(h)  c = Cast<to=16>(f)  y = Add(c, b)
    }"""
    network = read_network(build(graph, arrays))
    wide = {name: array.astype(np.float32) for name, array in arrays.items()}
    for x in (X, X.astype(ml_dtypes.bfloat16)):
        found = open_session(network.model).run({"x": x})["y"]
        np.testing.assert_allclose(found, X @ wide["w"] + wide["b"], rtol=1e-6)
    assert network.weights["w"].dtype == ml_dtypes.bfloat16
    override = {"b": np.zeros(3, ml_dtypes.bfloat16)}
    np.testing.assert_allclose(
        open_session(network.model, weights=override).run({"x": X})["y"], X @ wide["w"], rtol=1e-6
    )


def test_says_what_is_wrong_with_arguments() -> None:
    network = read_network(build(MLP, normal(w=(4, 3), b=(3,))))
    with pytest.raises(InputError, match="no initializer 'q'"):
        open_session(network.model, weights={"q": X})
    with pytest.raises(InputError, match=r"'w' is float32\[4, 3\], but float32\[2, 4\] was given"):
        open_session(network.model, weights={"w": X})
    with pytest.raises(InputError, match="no tensor 'q'"):
        open_session(network.model, outputs=["q"])
    session = open_session(network.model)
    with pytest.raises(InputError, match="input 'x' is missing"):
        session.run({})
    with pytest.raises(InputError, match="no input 'q'"):
        session.run({"x": X, "q": X})
    with pytest.raises(InputError, match=r"model 'g': does not run: .*'?x'?"):
        session.run({"x": X[:, :2]})


def test_names_the_node_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    unknown = build("(float[n] x) => (y) { y = my.Unheard(x) }", domains={"my": 1})
    with pytest.raises(InputError, match=r"'g': ONNX Runtime does not accept it: .*Unheard") as caught:
        open_session(read_network(unknown).model)
    assert "\n" not in str(caught.value)
    failing = build("(float[n,3] x) => (y) { s = Constant<value_ints=[7,7]>()  [shaper] y = Reshape(x, s) }")
    session = open_session(read_network(failing).model)
    with pytest.raises(InputError, match=r"Reshape node. Name:'shaper'") as caught:
        session.run({"x": np.zeros((2, 3), np.float32)})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_file_that_does_not_fit_is_not_called_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("Exception during initialization: std::bad_alloc")

    network = read_network(build(MLP, normal(w=(4, 3), b=(3,))))
    with monkeypatch.context() as patched:
        patched.setattr("onnxruntime.InferenceSession", full)
        with pytest.raises(ResourceError, match=r"does not open the result: no memory left; .* --max-memory"):
            save_network(network.model, {}, tmp_path / "m.onnx", {})
    assert list(tmp_path.iterdir()) == []
    assert onnx_runtime.refuses(b"no model", "it") is not None


def test_providers() -> None:
    assert available("cpu") == "cpu"
    with pytest.raises(UsageError, match="--provider abacus: unknown; choose auto, cpu"):
        available("abacus")


def test_a_provider_that_is_listed_but_does_not_load_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime, "_loads", lambda choice: False)  # noqa: ARG005
    assert available("auto") == "cpu"
    for choice in ("cuda", "tensorrt"):
        with pytest.raises(UsageError, match=f"--provider {choice}: not available here"):
            available(choice)


def test_a_process_that_may_use_one_core_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads(allowed: int, asked: int | None = None) -> int:
        monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(allowed)), raising=False)
        monkeypatch.setattr("os.cpu_count", lambda: 4)
        context = contextvars.copy_context()
        context.run(cores.set, asked)
        return int(context.run(onnx_runtime._options, SessionOptions()).intra_op_num_threads)

    assert threads(1) == 1
    assert threads(3) == 3
    assert threads(4) == 0  # one for each core
    assert threads(4, asked=2) == 2
