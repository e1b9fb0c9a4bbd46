"""Small networks, quantised as shipped models are, by ONNX Runtime's quantisers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from tests.graphs import build, normal

IMAGES = np.random.default_rng(9).standard_normal((64, 3, 8, 8)).astype(np.float32)

CONVOLUTIONS = """(float[n,3,8,8] images) => (float[n,5] y) {
    c1 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(images, w1, b1) r1 = Relu(c1)
    c2 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r1, w2, b2) s = Add(c2, r1) r2 = Relu(s)
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r2) g = GlobalAveragePool(m)
    f = Flatten(g) y = Gemm<transB=1>(f, w3, b3)
}"""
PRODUCTS = """(float[n,3,8,8] images) => (float[n,5] y) {
    f = Flatten(images) h = MatMul(f, w1) a = Add(h, b1) r = Relu(a) k = MatMul(r, w2) q = Relu(k) y = MatMul(q, w3)
}"""


def convolutions(seed: int = 0) -> onnx.ModelProto:
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "w3": (5, 8), "b3": (5,)}
    return build(CONVOLUTIONS, normal(seed=seed, scale=0.3, **shapes), opset=17, ir_version=8)


def products(seed: int = 0) -> onnx.ModelProto:
    shapes = {"w1": (192, 40), "b1": (40,), "w2": (40, 24), "w3": (24, 5)}
    return build(PRODUCTS, normal(seed=seed, scale=0.2, **shapes), opset=17, ir_version=8)


class _Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime.quantization has no types
    def __init__(self) -> None:
        self.rest: Iterator[dict[str, Any]] = iter([{"images": IMAGES[start : start + 16]} for start in (0, 16)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.rest, None)


def static(form: QuantFormat, **how: Any) -> Callable[[onnx.ModelProto, Path], None]:
    return lambda model, path: quantize_static(model, path, _Images(), quant_format=form, **how)


def dynamic(**how: Any) -> Callable[[onnx.ModelProto, Path], None]:
    return lambda model, path: quantize_dynamic(model, path, **how)


def packed(bits: int, *, symmetric: bool) -> Callable[[onnx.ModelProto, Path], None]:
    def quantise(model: onnx.ModelProto, path: Path) -> None:
        quantiser = MatMulNBitsQuantizer(model, block_size=16, is_symmetric=symmetric, bits=bits)
        quantiser.process()
        quantiser.model.save_model_to_file(str(path))

    return quantise


UNSIGNED = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8}
SIGNED = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
FORMATS: dict[str, tuple[Callable[[int], onnx.ModelProto], Callable[[onnx.ModelProto, Path], None]]] = {
    "QDQ": (convolutions, static(QuantFormat.QDQ, **SIGNED)),
    "QDQ by channel": (convolutions, static(QuantFormat.QDQ, per_channel=True, **SIGNED)),
    "QDQ asymmetric": (
        convolutions,
        static(QuantFormat.QDQ, extra_options={"WeightSymmetric": False, "ActivationSymmetric": False}, **UNSIGNED),
    ),
    "QDQ symmetric": (convolutions, static(QuantFormat.QDQ, extra_options={"ActivationSymmetric": True}, **SIGNED)),
    "QDQ of 16 bits": (
        convolutions,
        static(QuantFormat.QDQ, activation_type=QuantType.QUInt16, weight_type=QuantType.QInt8),
    ),
    "QDQ of 7 bits": (convolutions, static(QuantFormat.QDQ, reduce_range=True, **SIGNED)),
    "QDQ of products": (products, static(QuantFormat.QDQ, **SIGNED)),
    "QOperator": (convolutions, static(QuantFormat.QOperator, **UNSIGNED)),
    "QOperator by channel": (convolutions, static(QuantFormat.QOperator, per_channel=True, **SIGNED)),
    "QOperator of products": (products, static(QuantFormat.QOperator, **UNSIGNED)),
    "dynamic": (convolutions, dynamic(weight_type=QuantType.QUInt8)),
    "dynamic of products": (products, dynamic(weight_type=QuantType.QInt8)),
    "dynamic by channel": (products, dynamic(weight_type=QuantType.QInt8, per_channel=True)),
    "four bits": (products, packed(4, symmetric=True)),
    "four bits asymmetric": (products, packed(4, symmetric=False)),
    "eight bits in blocks": (products, packed(8, symmetric=False)),
}


def quantised(name: str, path: Path, seed: int = 0) -> Path:
    """A network quantised in one of FORMATS, written to ``path``."""
    make, quantise = FORMATS[name]
    quantise(make(seed), path)
    return path
