"""Tiny ONNX models for tests, written down as text.

    model = build(
        "(float[n,4] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w, b)  y = Relu(h) }",
        normal(w=(3, 4), b=(3,)),
    )
    y = execute(model, {"x": np.ones((2, 4), np.float32)})["y"]

The text is ONNX's own textual syntax (onnx.parser): typed inputs and outputs, then nodes. Attributes stand in angle
brackets before the operands (`Conv<group=2, pads=[1,1,1,1]>(x, w)`); newlines are only white space. Operators of
another domain are written `my.domain.Op(x)` and their domain is named in ``domains``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import ArrayLike, NDArray


def build(
    graph: str,
    weights: Mapping[str, ArrayLike] | None = None,
    *,
    opset: int = 21,
    ir_version: int = 10,
    domains: Mapping[str, int] | None = None,
    check: bool = True,
) -> onnx.ModelProto:
    """A model from the text of its graph and its initializers.

    ``graph`` is ``"(inputs) => (outputs) { nodes }"``. ``weights`` become initializers with the arrays' own types
    (float16, int64, ml_dtypes.bfloat16, ...) in the order given; plain Python floats and lists become float32, and
    ints int64. ``domains`` adds opset imports. The model is checked by onnx.checker with full shape inference unless
    ``check`` is False (for models that are meant to be wrong, or of unknown operators).
    """
    imports = ", ".join(f'"{name}": {version}' for name, version in {"": opset, **(domains or {})}.items())
    model = onnx.parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{imports}]> g {graph}")
    model.graph.initializer.extend(tensor(name, value) for name, value in (weights or {}).items())
    if check:
        onnx.checker.check_model(model, full_check=True)
    return model


def tensor(name: str, value: ArrayLike) -> onnx.TensorProto:
    """An initializer; what is not yet a numpy array becomes int64 if integral and float32 otherwise."""
    if not isinstance(value, (np.ndarray, np.generic)):
        value = np.asarray(value)
        value = value.astype(np.int64 if value.dtype.kind in "iu" else np.float32 if value.dtype.kind == "f" else bool)
    return onnx.numpy_helper.from_array(np.asarray(value), name)


def normal(*, seed: int = 0, scale: float = 1.0, **shapes: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    """Normal float32 weights of the given shapes, by name: ``normal(w=(3, 4), b=(3,), seed=1)``."""
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def batchnorm(prefix: str, size: int, *, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """A BatchNormalization's initializers ``{prefix}_scale``, ``_bias``, ``_mean`` and ``_var`` (positive)."""
    rng = np.random.default_rng(seed)
    values = {
        "scale": rng.uniform(0.5, 1.5, size),
        "bias": rng.normal(0, 0.5, size),
        "mean": rng.normal(0, 0.5, size),
        "var": rng.uniform(0.5, 2.0, size),
    }
    return {f"{prefix}_{name}": value.astype(np.float32) for name, value in values.items()}


def initializers(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """The initializers of ``model`` as arrays, by name."""
    return {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}


def execute(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run ``model`` on the CPU in ONNX Runtime, unoptimised and on one thread; outputs by name."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def copies_made(monkeypatch: pytest.MonkeyPatch) -> list[ir.Model]:
    """The models that are copied from now on, in a list that grows."""
    copies: list[ir.Model] = []
    clone = ir.Model.clone

    def counted(model: ir.Model) -> ir.Model:
        copies.append(model)
        return clone(model)

    monkeypatch.setattr(ir.Model, "clone", counted)
    return copies
