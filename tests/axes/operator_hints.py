"""What the description of an operator does not say of a model for it: by domain, name and place of the entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from tests.axes.operator_models import Hints, floats

MICROSOFT = "com.microsoft"
SCALE, ZERO = np.array(0.05, np.float32), np.array(3, np.uint8)

_CONV: Any = {"s": (5, 5), "k": (3, 3), "t": (3, 3)}
_POOL: Any = {"s": (6, 6), "t": (4, 4)}
_KERNEL = {"kernel_shape": [3, 3]}
_ONE = {"x_zero_point": ZERO, "x_scale": SCALE, "y_zero_point": ZERO, "y_scale": SCALE}
_QLINEAR = {"X_scale": SCALE, "X_zero_point": ZERO, "Y_scale": SCALE, "Y_zero_point": ZERO}
_QPOOL = {"x_scale": SCALE, "x_zero_point": ZERO, "y_scale": SCALE, "y_zero_point": ZERO}
_QBINARY = {
    "A_scale": SCALE, "A_zero_point": ZERO, "B_scale": SCALE, "B_zero_point": ZERO, "C_scale": SCALE,
    "C_zero_point": ZERO,
}  # fmt: skip
_RECURRENT: Any = {
    "sizes": {"t": 3, "n": 2, "i": 4, "h": 5, "d": 2},
    "attributes": {"hidden_size": 5, "direction": "bidirectional"},
    "values": {"sequence_lens": np.array([3, 3], np.int32)},
    "low": -0.5,
    "high": 0.5,
}


def _bits(sizes: Mapping[str, int], *, flat: bool) -> Hints:
    """MatMulNBits: 4 bits, two blocks of 16 along k."""
    n = sizes["n"]
    rng = np.random.default_rng(0)
    shape = (n * 2,) if flat else (n, 2)
    return Hints(
        sizes={"b": (2,), "k": 32, **sizes},
        values={
            "B": rng.integers(0, 255, (n, 2, 8), dtype=np.uint8),
            "scales": floats(*shape),
            "zero_points": None,
            "g_idx": None,
        },
        attributes={"K": 32, "N": n, "bits": 4, "block_size": 16},
        quantised=("B",),
    )


_LSTM_SCALES = {name: np.array([0.01, 0.02], np.float32) for name in ("W_scale", "R_scale")}


def _quantised_lstm(*, by_unit: bool) -> Hints:
    rng = np.random.default_rng(0)
    scales = {name: floats(2, 20, low=0.01, high=0.02) for name in _LSTM_SCALES} if by_unit else _LSTM_SCALES
    zeros = {name: np.zeros((2, 20) if by_unit else 2, np.int8) for name in ("W_zero_point", "R_zero_point")}
    return Hints(
        **{
            **_RECURRENT,
            "values": {
                **_RECURRENT["values"], **scales, **zeros, "P": None,
                "W": rng.integers(-60, 60, (2, 4, 20), dtype=np.int8),
                "R": rng.integers(-60, 60, (2, 5, 20), dtype=np.int8),
            },
            "quantised": ("W", "R"),
        }
    )  # fmt: skip


_LINEAR_ATTENTION = Hints(
    sizes={"n": 2, "k": 2, "r": 3, "s": 4, "d": 5, "e": 3}, attributes={"q_num_heads": 6}, low=-0.5, high=0.5
)

HINTS: Mapping[tuple[str, str, int], Hints] = {
    # --- elementwise
    ("", "Acosh", 0): Hints(low=1.2, high=3.0),
    ("", "BitCast", 0): Hints(attributes={"to": int(onnx.TensorProto.INT32)}),
    ("", "BitShift", 0): Hints(attributes={"direction": "LEFT"}),
    ("", "Cast", 0): Hints(attributes={"to": int(onnx.TensorProto.DOUBLE)}),
    ("", "CastLike", 0): Hints(sizes={"b": (2, 3)}, values={"target_type": np.array(0, np.float64)}),
    ("", "Clip", 0): Hints(values={"1": np.array(0.3, np.float32), "2": np.array(0.8, np.float32)}),
    ("", "Dropout", 0): Hints(sizes={"b": (2, 3)}, values={"ratio": None, "training_mode": None}),
    ("", "Mod", 0): Hints(attributes={"fmod": 1}),
    ("", "LpNormalization", 0): Hints(attributes={"axis": 1}),
    ("ai.onnx.ml", "Normalizer", 0): Hints(sizes={"0": (3, 4)}, attributes={"norm": "L2"}),
    ("ai.onnx.ml", "Scaler", 0): Hints(sizes={"0": (3, 4)}, attributes={"offset": [0.5], "scale": [2.0]}),
    (MICROSOFT, "BiasGelu", 0): Hints(sizes={"1": (4,)}),
    (MICROSOFT, "FastGelu", 0): Hints(sizes={"1": (4,)}),
    (MICROSOFT, "QLinearAdd", 0): Hints(sizes={"b": (3, 4)}, values=_QBINARY),
    (MICROSOFT, "QLinearMul", 0): Hints(sizes={"b": (3, 4)}, values=_QBINARY),
    (MICROSOFT, "QLinearSigmoid", 0): Hints(sizes={"b": (3, 4)}, values=_QLINEAR),
    (MICROSOFT, "QLinearLeakyRelu", 0): Hints(sizes={"b": (3, 4)}, values=_QLINEAR),
    (MICROSOFT, "ScaledSiLU", 0): Hints(values={"1": np.array(0.5, np.float32)}),
    (MICROSOFT, "QLinearSoftmax", 0): Hints(
        values={"1": SCALE, "2": ZERO, "3": np.array(1 / 256, np.float32), "4": np.array(0, np.uint8)},
        attributes={"opset": 13, "axis": -1},
    ),
    (MICROSOFT, "QLinearWhere", 0): Hints(
        sizes={"b": (3, 4)},
        values={
            "x_scale": SCALE,
            "x_zero_point": ZERO,
            "y_scale": SCALE,
            "y_zero_point": ZERO,
            "z_scale": SCALE,
            "z_zero_point": ZERO,
        },
    ),
    # --- windows
    ("", "Conv", 0): Hints(sizes=_CONV),
    ("", "ConvTranspose", 0): Hints(sizes=_CONV),
    ("", "ConvInteger", 0): Hints(sizes=_CONV, values={"x_zero_point": ZERO, "w_zero_point": ZERO}),
    ("", "QLinearConv", 0): Hints(sizes=_CONV, values=_ONE),
    ("", "DeformConv", 0): Hints(sizes={**_CONV, "p": 18, "q": 9, "t": (3, 3)}, attributes={"offset_group": 1}),
    ("", "DeformConv", 1): Hints(sizes={**_CONV, "h": 2, "p": 36, "q": 18, "t": (3, 3)}),
    ("", "AveragePool", 0): Hints(sizes=_POOL, attributes=_KERNEL),
    ("", "LpPool", 0): Hints(sizes=_POOL, attributes=_KERNEL),
    ("", "MaxPool", 0): Hints(sizes=_POOL, attributes=_KERNEL),
    ("", "MaxRoiPool", 0): Hints(
        sizes={"s": (6, 6), "n": 1},
        values={"rois": np.array([[0, 0, 0, 3, 3], [0, 1, 1, 4, 5]], np.float32)},
        attributes={"pooled_shape": [2, 2]},
        opset=21,
    ),
    ("", "RoiAlign", 0): Hints(
        sizes={"s": (6, 6)},
        values={
            "rois": np.array([[0, 0, 3, 3], [1, 1, 4, 5]], np.float32),
            "batch_indices": np.array([0, 1]),
        },
        attributes={"output_height": 2, "output_width": 2},
        opset=21,
    ),
    ("", "GridSample", 0): Hints(sizes={"s": (5, 5), "t": (3, 3), "q": 2}),
    (MICROSOFT, "NhwcMaxPool", 0): Hints(sizes=_POOL, attributes=_KERNEL),
    (MICROSOFT, "FusedConv", 0): Hints(sizes=_CONV, attributes={"activation": "Relu"}),
    (MICROSOFT, "QLinearConv", 0): Hints(sizes=_CONV, values=_ONE),
    (MICROSOFT, "QLinearConv", 1): Hints(sizes=_CONV, values=_ONE, attributes={"channels_last": 1}),
    (MICROSOFT, "QLinearAveragePool", 0): Hints(sizes=_POOL, values=_QPOOL, attributes=_KERNEL),
    (MICROSOFT, "QLinearAveragePool", 1): Hints(sizes=_POOL, values=_QPOOL, attributes={**_KERNEL, "channels_last": 1}),
    # --- products
    (MICROSOFT, "FusedGemm", 0): Hints(attributes={"activation": "Relu"}),
    (MICROSOFT, "FusedMatMul", 0): Hints(sizes={"b": (2,)}),
    (MICROSOFT, "TransposeMatMul", 0): Hints(sizes={"b": (2,)}),
    (MICROSOFT, "DynamicQuantizeMatMul", 0): Hints(sizes={"b": (2,)}),
    (MICROSOFT, "MatMulInteger16", 0): Hints(sizes={"b": (2,)}),
    (MICROSOFT, "MatMulIntegerToFloat", 0): Hints(sizes={"b": (2,)}, values={"a_scale": SCALE, "a_zero_point": ZERO}),
    (MICROSOFT, "QGemm", 0): Hints(
        values={"a_scale": SCALE, "a_zero_point": ZERO, "y_scale": SCALE, "y_zero_point": ZERO}
    ),
    (MICROSOFT, "MatMulNBits", 0): _bits({"n": 5}, flat=False),
    (MICROSOFT, "MatMulNBits", 1): _bits({"n": 5}, flat=True),
    # --- norms
    ("", "BatchNormalization", 1): Hints(sizes={"s": (3, 4)}),
    ("", "BatchNormalization", 2): Hints(sizes={"s": (3, 4)}),
    ("", "BatchNormalization", 3): Hints(sizes={"s": (3, 4)}, outputs=1),
    ("", "InstanceNormalization", 0): Hints(sizes={"s": (3, 4)}),
    ("", "GroupNormalization", 0): Hints(sizes={"s": (3, 4)}),
    ("", "GroupNormalization", 1): Hints(sizes={"s": (3, 4)}),
    ("", "LayerNormalization", 0): Hints(sizes={"b": (2, 3), "d": (4,)}),
    ("", "RMSNormalization", 0): Hints(sizes={"b": (2, 3), "d": (4,)}),
    ("", "SimplifiedLayerNormalization", 0): Hints(sizes={"b": (2, 3), "d": (4,)}),
    ("", "LRN", 0): Hints(sizes={"s": (3, 4)}, attributes={"size": 3}),
    (MICROSOFT, "SkipLayerNormalization", 0): Hints(sizes={"b": (2, 3)}),
    (MICROSOFT, "SkipSimplifiedLayerNormalization", 0): Hints(sizes={"b": (2, 3)}),
    (MICROSOFT, "GatedRMSNorm", 0): Hints(sizes={"b": (2, 3)}),
    (MICROSOFT, "EmbedLayerNormalization", 0): Hints(
        sizes={"n": 2, "s": 3, "v": 7, "p": 6, "q": 2, "d": 5},
        values={
            "input_ids": np.array([[1, 5, 2], [6, 0, 3]], np.int32),
            "segment_ids": np.array([[0, 1, 1], [0, 0, 1]], np.int32),
            "mask": None,
            "position_ids": np.array([[3, 1, 2], [5, 0, 4]], np.int32),
        },
    ),
    (MICROSOFT, "GroupNorm", 0): Hints(sizes={"s": (3, 4)}, attributes={"activation": 1}),
    (MICROSOFT, "GroupNorm", 1): Hints(sizes={"s": (3, 4)}, attributes={"activation": 1, "channels_last": 0}),
    (MICROSOFT, "SkipGroupNorm", 0): Hints(sizes={"s": (3, 4)}, attributes={"activation": 1}),
    # --- attention and recurrence
    ("", "Attention", 0): Hints(
        sizes={"n": 2, "k": 2, "r": 3, "s": 4, "t": 3, "d": 5, "e": 4, "u": 5, "p": 2},
        values={"nonpad_kv_seqlen": None},
        attributes={"qk_matmul_output_mode": 0},
    ),
    ("", "Attention", 1): Hints(
        sizes={"n": 2, "k": 2, "r": 3, "s": 4, "t": 3, "d": 5, "e": 4, "u": 5, "p": 2},
        values={"nonpad_kv_seqlen": None},
        attributes={"q_num_heads": 6},
    ),
    (MICROSOFT, "CausalConvWithState", 0): Hints(
        sizes={"n": 2, "c": 3, "s": 5, "i": 1, "k": 4, "p": 3}, attributes={"activation": "silu"}
    ),
    (MICROSOFT, "LinearAttention", 0): _LINEAR_ATTENTION,
    (MICROSOFT, "LinearAttention", 1): _LINEAR_ATTENTION,
    (MICROSOFT, "RelativePositionBias", 0): Hints(
        values={"query_length": np.array([4]), "key_length": np.array([4])}, attributes={"max_distance": 5}
    ),
    ("", "LSTM", 0): Hints(**_RECURRENT),
    ("", "LSTM", 1): Hints(**_RECURRENT),
    ("", "GRU", 0): Hints(**_RECURRENT),
    ("", "GRU", 1): Hints(**_RECURRENT),
    ("", "RNN", 0): Hints(**_RECURRENT),
    ("", "RNN", 1): Hints(**_RECURRENT),
    (MICROSOFT, "DynamicQuantizeLSTM", 0): _quantised_lstm(by_unit=True),
    (MICROSOFT, "DynamicQuantizeLSTM", 1): _quantised_lstm(by_unit=False),
}
