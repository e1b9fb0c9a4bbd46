"""Models of operators that Python rules type, and of variants that a signature's letters do not tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.axes.operator_models import Array, Case, Learned, every, floats

MICROSOFT = "com.microsoft"
Operand = Array | Learned | None


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def case(
    name: str,
    inputs: Sequence[Operand],
    *free: tuple[int, int],
    domain: str = "",
    outputs: int = 1,
    opset: int = 26,
    **attributes: Any,
) -> Case:
    """``free`` are the (operand, axis) that move; none named, none do."""
    return Case(name, inputs, frozenset(free), attributes, domain, opset, outputs)


def everywhere(name: str, inputs: Sequence[Operand], **more: Any) -> Case:
    """All axes of all weights move."""
    return case(name, inputs, *every(inputs), **more)


def quantised(*shape: int, seed: int = 0, signed: bool = False) -> Learned:
    return Learned(np.round(60 * floats(*shape, seed=seed)).astype(np.int8 if signed else np.uint8))


SCALE, ZERO = np.array(0.05, np.float32), np.array(3, np.uint8)


def _reductions() -> dict[str, Case]:
    names = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    found = {f"Reduce{name}": everywhere(f"Reduce{name}", [floats(2, 3, 4), ints(1)]) for name in names}
    old = {
        f"Reduce{n} of old": everywhere(f"Reduce{n}", [floats(2, 3, 4)], opset=11, axes=[1], keepdims=0) for n in names
    }
    return {**found, **old}


def _gqa(
    *,
    heads: int,
    kv: int,
    size: int = 8,
    packed: bool = False,
    past: int = 0,
    more: Mapping[int, Array] | None = None,
    free: Sequence[tuple[int, int]] = (),
    fixed: Sequence[tuple[int, int]] = (),
    outputs: int = 1,
    **attributes: Any,
) -> Case:
    """GroupQueryAttention on two samples of three tokens; ``more`` are further operands by their place."""
    tokens = 1 if past else 3
    samples = 1
    inputs: list[Operand] = [None] * 12
    if packed:
        inputs[0] = floats(samples, tokens, (heads + 2 * kv) * size, low=-0.9)
    else:
        inputs[:3] = [
            floats(samples, tokens, heads * size, low=-0.9),
            floats(samples, tokens, kv * size, seed=1, low=-0.9),
            floats(samples, tokens, kv * size, seed=2, low=-0.9),
        ]
    if past:
        inputs[3:5] = [floats(samples, kv, past, size, seed=seed, low=-0.9) for seed in (3, 4)]
    inputs[5] = np.full(samples, tokens + past - 1, np.int32)
    inputs[6] = np.array(tokens + past, np.int32)
    for place, operand in (more or {}).items():
        inputs[place] = operand
    while inputs[-1] is None:
        inputs.pop()
    moving = {(0, 2), (1, 2), (2, 2), (3, 1), (3, 3), (4, 1), (4, 3), *free} - {*fixed}
    places = every(inputs)
    return case(
        "GroupQueryAttention", inputs, *(place for place in moving if place in places), domain=MICROSOFT,
        outputs=outputs, num_heads=heads, kv_num_heads=kv, **attributes,
    )  # fmt: skip


def _angles(size: int) -> dict[int, Array]:
    return {7: floats(8, size // 2, seed=7), 8: floats(8, size // 2, seed=8)}


TABLES = ((7, 1), (8, 1))
"""The frequencies of the angles."""


def _attention(*more: Operand, free: Sequence[tuple[int, int]] = (), **attributes: Any) -> Case:
    """com.microsoft Attention: heads of 4 and of 3 units."""
    weights = [floats(2, 3, 5), floats(5, 22, seed=1, low=-0.9), floats(22, seed=2)]
    places = [(0, 2), (1, 0), (1, 1), (2, 0), *free]
    return case(
        "Attention", [*weights, *more], (0, 0), *places, domain=MICROSOFT, num_heads=2,
        qkv_hidden_sizes=[8, 8, 6], **attributes,
    )  # fmt: skip


def _multi_head(
    *more: Operand, free: Sequence[tuple[int, int]] = (), outputs: int = 1, values: int = 6, **attributes: Any
) -> Case:
    weights = [floats(2, 3, 8, low=-0.9), floats(2, 4, 8, seed=1, low=-0.9), floats(2, 4, values, seed=2)]
    places = [(index, axis) for index in range(3) for axis in (0, 2)]
    return case(
        "MultiHeadAttention", [*weights, *more], *places, *free, domain=MICROSOFT, num_heads=2, outputs=outputs,
        **attributes,
    )  # fmt: skip


def _qattention() -> dict[str, Case]:
    """Scales and zero points of the whole matrix, and of each column."""
    given: list[Operand] = [quantised(2, 3, 5), quantised(5, 24, seed=1, signed=True), floats(24, seed=2), SCALE]
    places = [(0, 0), (0, 2), (1, 0), (1, 1), (2, 0)]
    by_column: list[Operand] = [*given, floats(24, seed=3), None, ZERO, quantised(24, seed=4, signed=True)]
    whole: list[Operand] = [*given, SCALE, None, ZERO, np.array(1, np.int8)]
    return {
        "QAttention": case("QAttention", whole, *places, domain=MICROSOFT, num_heads=2),
        "QAttention by column": case("QAttention", by_column, *places, (4, 0), (7, 0), domain=MICROSOFT, num_heads=2),
    }


def _moe(fused: int, *, rank: int = 2, **attributes: Any) -> Case:
    """Three experts of eight hidden units."""
    rows = 8 if fused == 0 else 16
    given = [floats(*((4,) if rank == 2 else (2, 2)), 6), floats(4, 3, seed=1), floats(3, rows, 6, seed=2)]
    given += [floats(3, rows, seed=3), floats(3, 6, 8, seed=4), floats(3, 6, seed=5)]
    return everywhere("MoE", given, domain=MICROSOFT, k=2, swiglu_fusion=fused, **attributes)


def _attend(*more: Operand, samples_move: bool = True, **attributes: Any) -> Case:
    """Attention of the standard, four heads to two."""
    given = [floats(2, 4, 3, 5, low=-0.9), floats(2, 2, 3, 5, seed=1, low=-0.9), floats(2, 2, 3, 4, seed=2)]
    places = [(index, axis) for index in range(3) for axis in ((0, 1, 3) if samples_move else (1, 3))]
    return case("Attention", [*given, *more], *places, **attributes)


CASES: Mapping[str, Case] = {
    **_reductions(),
    # --- movement
    "Reshape": everywhere("Reshape", [floats(2, 6, 4), ints(2, 2, 3, 4)]),
    "Reshape together": everywhere("Reshape", [floats(2, 3, 4), ints(2, 12)]),
    "Flatten": everywhere("Flatten", [floats(2, 3, 4)], axis=1),
    "Squeeze": everywhere("Squeeze", [floats(2, 1, 4), ints(1)]),
    "Unsqueeze": everywhere("Unsqueeze", [floats(2, 4), ints(1)]),
    "Transpose": everywhere("Transpose", [floats(2, 3, 4)], perm=[2, 0, 1]),
    "Expand": everywhere("Expand", [floats(3, 1, 4), ints(2, 3, 5, 4)]),
    "Tile": everywhere("Tile", [floats(3, 4), ints(2, 2)]),
    "DepthToSpace": case("DepthToSpace", [floats(2, 12, 3, 2)], (0, 0), (0, 1), blocksize=2),
    "DepthToSpace CRD": case("DepthToSpace", [floats(2, 12, 3, 2)], (0, 0), (0, 1), blocksize=2, mode="CRD"),
    "SpaceToDepth": case("SpaceToDepth", [floats(2, 3, 4, 6)], (0, 0), (0, 1), blocksize=2),
    "Resize": case("Resize", [floats(2, 3, 4, 4), None, np.array([1, 1, 2, 2], np.float32)], (0, 0), (0, 1)),
    "Upsample": case("Upsample", [floats(2, 3, 4, 4), np.array([1, 1, 2, 2], np.float32)], (0, 0), (0, 1), opset=9),
    "CenterCropPad": case("CenterCropPad", [floats(2, 5, 4), ints(3)], (0, 0), (0, 2), axes=[1]),
    "Concat": everywhere("Concat", [floats(2, 3), floats(2, 4, seed=1)], axis=1),
    "Split": everywhere("Split", [floats(2, 7), ints(3, 4)], axis=1, outputs=2),
    "Slice": everywhere("Slice", [floats(2, 7), ints(2), ints(6), ints(1)]),
    "Slice of old": everywhere("Slice", [floats(2, 7)], opset=9, starts=[2], ends=[6], axes=[1]),
    "Pad": everywhere("Pad", [floats(2, 3, 4), ints(0, 1, 0, 0, 2, 0)]),
    "Pad with what is there": case("Pad", [floats(2, 3, 4), ints(0, 1, 0, 0, 1, 0)], (0, 0), (0, 2), mode="reflect"),
    "Gather of a run": everywhere("Gather", [floats(2, 7), ints(2, 3, 4)], axis=1),
    "Gather": case("Gather", [floats(2, 7), ints(4, 2, 2)], (0, 0), axis=1),
    "GatherElements": case("GatherElements", [floats(3, 4), np.array([[2, 2, 2, 2], [0, 0, 0, 0]])], (0, 1), axis=0),
    "GatherND": case("GatherND", [floats(3, 4), np.array([[2], [0]])], (0, 1)),
    "Scatter": case(
        "Scatter", [floats(3, 4), np.array([[2] * 4, [0] * 4]), floats(2, 4, seed=1)], (0, 1), (2, 1), opset=10
    ),
    "ScatterElements": case(
        "ScatterElements", [floats(3, 4), np.array([[2] * 4, [0] * 4]), floats(2, 4, seed=1)], (0, 1), (2, 1)
    ),
    "ScatterND": case("ScatterND", [floats(3, 4), np.array([[2], [0]]), floats(2, 4, seed=1)], (0, 1), (2, 1)),
    "OneHot": case("OneHot", [Learned(np.array([1, 3, 0])), np.array(4), np.array([0, 1], np.float32)], (0, 0)),
    "ArgMax": case("ArgMax", [floats(3, 4)], (0, 0), axis=1),
    "ArgMin": case("ArgMin", [floats(3, 4)], (0, 0), axis=1),
    "TopK": case("TopK", [floats(3, 4), ints(2)], (0, 0), outputs=2),
    "CumSum": case("CumSum", [floats(3, 4), np.array(1)], (0, 0)),
    "CumProd": case("CumProd", [floats(3, 4), np.array(1)], (0, 0)),
    "Compress": case("Compress", [floats(3, 4), np.array([True, False, True, True])], (0, 0), axis=1),
    "Trilu": case("Trilu", [floats(3, 4, 4)], (0, 0)),
    "ReverseSequence": case("ReverseSequence", [floats(4, 2, 3), ints(3, 2)], (0, 2)),
    "DFT": case("DFT", [floats(3, 4, 1), None, np.array(1)], (0, 0)),
    "Hardmax": case("Hardmax", [floats(3, 4)], (0, 0)),
    "Col2Im": case("Col2Im", [floats(2, 12, 9), ints(4, 4), ints(2, 2)], (0, 0), (0, 1)),
    "ExpandDims": everywhere("ExpandDims", [floats(2, 3), np.array(1, np.int32)], domain=MICROSOFT),
    "GatherND of ONNX Runtime": case("GatherND", [floats(3, 4), np.array([[2], [0]])], (0, 1), domain=MICROSOFT),
    "Pad of ONNX Runtime": everywhere("Pad", [floats(2, 3, 4), ints(0, 1, 0, 0, 2, 0)], domain=MICROSOFT),
    # --- what is read of shapes alone
    "Shape": everywhere("Shape", [floats(3, 4)]),
    "Size": everywhere("Size", [floats(3, 4)]),
    "Constant": case("Constant", [], value_floats=[1.0, 2.0]),
    "ConstantOfShape": case("ConstantOfShape", [ints(2, 3)]),
    "EyeLike": everywhere("EyeLike", [floats(3, 4)]),
    "BlackmanWindow": case("BlackmanWindow", [np.array(5)]),
    "HammingWindow": case("HammingWindow", [np.array(5)]),
    "HannWindow": case("HannWindow", [np.array(5)]),
    # --- windows over everything
    "GlobalAveragePool": everywhere("GlobalAveragePool", [floats(2, 3, 4, 5)]),
    "GlobalMaxPool": everywhere("GlobalMaxPool", [floats(2, 3, 4, 5)]),
    "GlobalLpPool": everywhere("GlobalLpPool", [floats(2, 3, 4, 5)], opset=21),
    "QLinearGlobalAveragePool": everywhere(
        "QLinearGlobalAveragePool", [quantised(2, 3, 4, 5), SCALE, ZERO, SCALE, ZERO], domain=MICROSOFT
    ),
    "QLinearGlobalAveragePool, channels last": everywhere(
        "QLinearGlobalAveragePool", [quantised(2, 4, 5, 3), SCALE, ZERO, SCALE, ZERO], domain=MICROSOFT, channels_last=1
    ),
    # --- products
    "MatMul": everywhere("MatMul", [floats(2, 3, 4), floats(2, 4, 5, seed=1)]),
    "MatMul of a vector": everywhere("MatMul", [floats(4), floats(2, 4, 5, seed=1)]),
    "Einsum": everywhere("Einsum", [floats(2, 3, 4), floats(2, 5, 4, seed=1)], equation="bik,bjk->bij"),
    "Gemm, both transposed": everywhere("Gemm", [floats(4, 3), floats(5, 4, seed=1), floats(5)], transA=1, transB=1),
    "MatMulInteger": everywhere(
        "MatMulInteger", [quantised(2, 3, 4), quantised(4, 5, seed=1), ZERO, quantised(5, seed=2)]
    ),
    "QLinearMatMul": everywhere(
        "QLinearMatMul", [quantised(3, 4), SCALE, ZERO, quantised(4, 5, seed=1), SCALE, ZERO, SCALE, ZERO]
    ),
    "MoE": _moe(0, activation_type="gelu"),
    "MoE of samples": _moe(0, rank=3, activation_type="relu"),
    "MoE, interleaved": _moe(1, activation_type="swiglu"),
    # --- quantisation
    "QuantizeLinear": everywhere("QuantizeLinear", [floats(3, 4), floats(4, seed=1)], axis=1),
    "DequantizeLinear": everywhere("DequantizeLinear", [quantised(3, 4), floats(4, seed=1)], axis=1),
    "DequantizeLinear of blocks": everywhere(
        "DequantizeLinear", [quantised(6, 4), floats(2, 4, seed=1)], axis=0, block_size=3
    ),
    "DynamicQuantizeLinear": everywhere("DynamicQuantizeLinear", [floats(3, 4)], outputs=3),
    "QuantizeLinear of ONNX Runtime": everywhere(
        "QuantizeLinear", [floats(3, 4), floats(4, seed=1), np.zeros(4, np.uint8)], domain=MICROSOFT, axis=1
    ),
    "DequantizeLinear of ONNX Runtime": everywhere(
        "DequantizeLinear", [quantised(3, 4), floats(4, seed=1), np.zeros(4, np.uint8)], domain=MICROSOFT, axis=1
    ),
    "QLinearConcat": everywhere(
        "QLinearConcat",
        [SCALE, ZERO, quantised(2, 3), SCALE, ZERO, quantised(2, 4, seed=1), SCALE, ZERO],
        domain=MICROSOFT,
        axis=1,
    ),
    # --- rotary embedding
    "RotaryEmbedding": case(
        "RotaryEmbedding",
        [floats(2, 3, 12), floats(2, 3, 3), floats(2, 3, 3, seed=1)],
        (0, 0),
        (0, 2),
        (1, 0),
        (1, 2),
        (2, 0),
        (2, 2),
        num_heads=2,
    ),
    "RotaryEmbedding, interleaved": case(
        "RotaryEmbedding",
        [floats(2, 2, 3, 6), floats(2, 3, 3), floats(2, 3, 3, seed=1)],
        (0, 0),
        (0, 1),
        (0, 3),
        (1, 0),
        (1, 2),
        (2, 0),
        (2, 2),
        interleaved=1,
    ),
    "RotaryEmbedding of a part": case(
        "RotaryEmbedding",
        [floats(2, 2, 3, 8), floats(2, 3, 3), floats(2, 3, 3, seed=1)],
        (0, 0),
        (0, 1),
        (1, 0),
        (2, 0),
        rotary_embedding_dim=6,
    ),
    "RotaryEmbedding of ONNX Runtime": case(
        "RotaryEmbedding",
        [floats(2, 3, 12), ints(0), floats(5, 3), floats(5, 3, seed=1)],
        (0, 0),
        (0, 2),
        (2, 1),
        (3, 1),
        domain=MICROSOFT,
    ),
    "RotaryEmbedding of ONNX Runtime, interleaved": case(
        "RotaryEmbedding",
        [floats(2, 2, 3, 6), ints(0), floats(5, 3), floats(5, 3, seed=1)],
        (0, 0),
        (0, 1),
        (0, 3),
        (2, 1),
        (3, 1),
        domain=MICROSOFT,
        interleaved=1,
    ),
    # --- variants that attributes and optional operands make
    "Attention, causal": _attend(is_causal=1),
    "Attention with a soft cap": _attend(softcap=0.5),
    "Attention with a mask": _attend(floats(3, 3, seed=3)),
    "Attention of so many keys": _attend(None, None, None, ints(3, 2), samples_move=False),
    "GRU, linear before reset": case(
        "GRU",
        [floats(3, 2, 4), floats(1, 15, 4, low=-0.9), floats(1, 15, 5, seed=1, low=-0.9), floats(1, 30)],
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
        (3, 1),
        linear_before_reset=1,
        hidden_size=5,
    ),
    "LayerNormalization of two axes": everywhere(
        "LayerNormalization", [floats(2, 3, 4), floats(3, 4, seed=1)], axis=-2
    ),
    "Softmax": everywhere("Softmax", [floats(2, 3, 4)], axis=1),
    "Softmax of old": everywhere("Softmax", [floats(2, 3, 4)], axis=1, opset=11),
    "BatchNormalization in training": everywhere(
        "BatchNormalization",
        [floats(4, 3, 5), *(floats(3, seed=seed) for seed in range(4))],
        training_mode=1,
        outputs=3,
        opset=21,
    ),
    "Conv of single channels": case(
        "Conv", [floats(2, 4, 5, 5), floats(4, 1, 3, 3, seed=1), floats(4)], (0, 0), (0, 1), (1, 0), (2, 0), group=4
    ),
    "Conv of single positions": everywhere("Conv", [floats(2, 4, 3, 5), floats(6, 4, 1, 1, seed=1), floats(6)]),
    "MaxPool with indices": case("MaxPool", [floats(2, 3, 6, 6)], kernel_shape=[2, 2], outputs=2),
    "MatMulNBits with zero points": case(
        "MatMulNBits",
        [
            floats(2, 3, 32),
            np.arange(80, dtype=np.uint8).reshape(5, 2, 8),
            floats(5, 2),
            np.array([[120], [134], [103], [154], [169]], np.uint8),
        ],
        (0, 0),
        (0, 1),
        (1, 0),
        (2, 0),
        (3, 0),
        domain=MICROSOFT,
        K=32,
        N=5,
        bits=4,
        block_size=16,
    ),
    # --- attention with packed weights
    "Attention of ONNX Runtime": _attention(),
    "Attention of ONNX Runtime, causal": _attention(unidirectional=1),
    "Attention of ONNX Runtime with a bias": _attention(None, None, floats(2, 2, 3, 3, seed=3), free=((5, 0), (5, 1))),
    "PackedAttention": case(
        "PackedAttention",
        [
            floats(3, 5),
            floats(5, 24, seed=1),
            floats(24, seed=2),
            np.arange(3, dtype=np.int32)[None],
            np.array([0, 3], np.int32),
        ],
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
        domain=MICROSOFT,
        num_heads=2,
    ),
    **_qattention(),
    # --- attention with separate operands
    "MultiHeadAttention": _multi_head(),
    "MultiHeadAttention, causal": _multi_head(unidirectional=1),
    "MultiHeadAttention with biases": _multi_head(
        floats(22, seed=3), None, floats(2, 2, 3, 4, seed=4), free=((3, 0), (5, 0), (5, 1))
    ),
    "MultiHeadAttention with a past": _multi_head(
        None,
        None,
        None,
        floats(2, 2, 2, 4, seed=5, low=-0.9),
        floats(2, 2, 2, 4, seed=6),
        outputs=3,
        values=8,
        free=((6, 0), (6, 1), (6, 3), (7, 0), (7, 1), (7, 3)),
    ),
    "MultiHeadAttention across": case(
        "MultiHeadAttention",
        [floats(2, 3, 8, low=-0.9), floats(2, 2, 4, 4, seed=1, low=-0.9), floats(2, 2, 4, 4, seed=2)],
        (0, 0),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 3),
        (2, 0),
        (2, 1),
        (2, 3),
        domain=MICROSOFT,
        num_heads=2,
    ),
    # --- grouped queries
    "GroupQueryAttention": _gqa(heads=4, kv=2),
    "GroupQueryAttention of one key head": _gqa(heads=4, kv=1),
    "GroupQueryAttention of equal heads": _gqa(heads=3, kv=3),
    "GroupQueryAttention, packed": _gqa(heads=4, kv=2, packed=True),
    "GroupQueryAttention with a past": _gqa(heads=4, kv=2, past=3, outputs=3),
    "GroupQueryAttention, turned": _gqa(heads=4, kv=2, size=16, more=_angles(16), free=TABLES, do_rotary=1),
    "GroupQueryAttention, turned and interleaved": _gqa(
        heads=4, kv=2, size=16, more=_angles(16), free=TABLES, do_rotary=1, rotary_interleaved=1
    ),
    "GroupQueryAttention, turned and packed": _gqa(
        heads=4, kv=2, packed=True, size=16, more=_angles(16), free=TABLES, do_rotary=1
    ),
    "GroupQueryAttention, turned, with a past": _gqa(
        heads=4, kv=2, past=3, outputs=3, size=16, more=_angles(16), free=TABLES, do_rotary=1
    ),
    "GroupQueryAttention, turned in part": _gqa(
        heads=4, kv=2, size=32, more={7: floats(8, 8, seed=7), 8: floats(8, 8, seed=8)}, do_rotary=1
    ),
    "GroupQueryAttention in a window": _gqa(heads=4, kv=2, local_window_size=2),
    "GroupQueryAttention with a soft cap": _gqa(heads=4, kv=2, softcap=0.5),
    "GroupQueryAttention, smooth": _gqa(heads=4, kv=2, smooth_softmax=1),
    "GroupQueryAttention with sinks": _gqa(heads=4, kv=2, more={11: floats(4, seed=9)}, free=((11, 0),)),
    "GroupQueryAttention with a bias": _gqa(heads=4, kv=2, more={10: floats(1, 4, 3, 3, seed=9)}, free=((10, 1),)),
}
