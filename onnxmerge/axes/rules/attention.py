"""Fused attention with packed weights or biases, and rotary embedding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from onnxmerge.axes.node_context import NodeContext
from onnxmerge.axes.rules.contraction import apply_patterns, apply_signature
from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.rules.segments import take_segment
from onnxmerge.axes.signature import Axes, MisfitError, Pattern, Signature, parse_pattern

Shape = tuple[int, ...]


def _three(
    context: NodeContext, axes: Axes | None, shape: Shape | None, sizes: Sequence[int]
) -> list[tuple[Axes | None, Shape | None]]:
    """The parts for q, k and v of the last axis of an operand."""
    if axes is None or shape is None:
        return [(None, None)] * 3
    if sum(sizes) != shape[-1]:
        raise MisfitError(f"{shape[-1]} is not {' + '.join(map(str, sizes))}")
    starts = [0, *accumulate(sizes)]
    last = len(shape) - 1
    return [
        (take_segment(context, axes, last, start, start + size, shape[-1]), (*shape[:-1], size))
        for start, size in zip(starts, sizes, strict=False)
    ]


@rule("packed_attention", typed=None)
def packed_attention(context: NodeContext) -> tuple[Axes | None, ...]:
    """com.microsoft Attention, QAttention, PackedAttention: q, k and v stand side by side in one matrix."""
    weights, shape = context.operand(1), context.shape(1)
    heads = int(context.attribute("num_heads", 0))
    past = context.input_name(_PAST.get(context.node.op_type, len(context.node.inputs))) or context.attribute(
        "do_rotary", 0
    )
    if weights is None or shape is None or heads < 1 or past or len(context.node.outputs) > 1:
        return context.freeze("attention with a past, a rotation or packed in an unknown way")
    given = context.attribute("qkv_hidden_sizes")
    sizes = [int(size) for size in given] if given else [shape[-1] // 3] * 3
    packed = [1, *(index for index in _BY_COLUMN[context.node.op_type] if context.shape(index) == shape[-1:])]
    bias = 5 if context.node.op_type == "Attention" and context.input_name(5) is not None else None
    for index in range(2, len(context.node.inputs)):
        if index not in (*packed, bias):
            context.fix(context.operand(index) or (), "an operand that is read as a whole")
    tokens = "s" if context.node.op_type == "PackedAttention" else "n s"
    patterns, inputs, operands, shapes = [f"{tokens} i"], [0], [context.operand(0)], [context.shape(0)]
    for index in packed:
        patterns += [f"i {part}" if index == 1 else part for part in ("(h d)", "(h d)", "(h e)")]
        for axes, found in _three(context, context.operand(index), context.shape(index), sizes):
            inputs, operands, shapes = [*inputs, index], [*operands, axes], [*shapes, found]
    if bias is not None:
        patterns, inputs = [*patterns, "n h s t"], [*inputs, bias]
        operands, shapes = [*operands, context.operand(bias)], [*shapes, context.shape(bias)]
    signature = Signature(
        _parse(patterns),
        _parse([f"{tokens} (h e)"]),
        {"h": heads},
        {"s": "tokens", "t": "tokens"},
        mixes=("i", "s", "t", "d", "e"),  # every token stands on both sides of the scores
    )
    return apply_signature(context, signature, (operands, shapes), inputs)


_PAST = {"Attention": 4, "QAttention": 8}
_BY_COLUMN = {"Attention": (2,), "PackedAttention": (2,), "QAttention": (2, 4, 7)}
"""Operands that may hold a number for each column of the matrix: biases, scales, zero points."""


@rule("multi_head_attention", typed=None)
def multi_head_attention(context: NodeContext) -> tuple[Axes | None, ...]:
    """com.microsoft MultiHeadAttention: separate q, k and v with a packed bias; keys and values may be a cache's."""
    query, key, value = context.shape(0), context.shape(1), context.shape(2)
    if query is None or key is None or value is None or len(query) != 3 or {len(key), len(value)} - {3, 4}:
        return context.freeze("attention packed in an unknown way")
    if context.input_name(8) or context.input_name(9):
        return context.freeze("attention with a cache that is written in place")
    heads = int(context.attribute("num_heads", 0))
    sizes = [query[-1], query[-1], value[-1] * (heads if len(value) == 4 else 1)]
    biases = _three(context, context.operand(3), context.shape(3), sizes)
    operands = [
        *context.operands()[:3],
        *[axes for axes, _ in biases],
        *(context.operand(index) for index in range(4, 8)),
    ]
    shapes = [
        *context.input_shapes()[:3],
        *[found for _, found in biases],
        *(context.shape(index) for index in range(4, 8)),
    ]
    signature = Signature(
        _parse(
            [
                "n s (h d)",
                "n h t d" if len(key) == 4 else "n t (h d)",
                "n h t e" if len(value) == 4 else "n t (h e)",
                *("(h d)", "(h d)", "(h e)"),
                *("*mask", "n h s u", "n h p d", "n h p e"),
            ]
        ),
        _parse(["n s (h e)", "n h u d", "n h u e", "n h s u"]),
        {"h": heads},
        {"mask": "an operand that is read as a whole", **dict.fromkeys("stup", "tokens")},
        mixes=("d", "e"),
        contracts=("d",),
    )
    return apply_signature(context, signature, (operands, shapes), [0, 1, 2, 3, 3, 3, 4, 5, 6, 7])


@rule("group_query_attention", typed=None)
def group_query_attention(context: NodeContext) -> tuple[Axes | None, ...]:
    """com.microsoft GroupQueryAttention: (k r) query heads, r to each of k heads of keys and values.

    Without a key, all three stand in the query side by side. The operator may turn pairs of units by itself, and divide
    the units of a head by their root mean square: each frequency and each scale then serves the units of all heads.
    """
    query, cache = context.shape(0), context.shape(7)
    heads, shared = (int(context.attribute(name, 0)) for name in ("num_heads", "kv_num_heads"))
    turns = bool(context.attribute("do_rotary", 0))
    if query is None or len(query) != 3 or min(heads, shared) < 1 or heads % shared or (turns and cache is None):
        return context.freeze("attention packed in an unknown way")
    if context.input_name(12) or context.input_name(13):
        return context.freeze("attention with a quantised cache")
    packed = context.input_name(1) is None
    size = query[-1] // (heads + 2 * shared if packed else heads)
    parts = [(context.operand(index), context.shape(index)) for index in range(3)]
    if packed:
        parts = _three(context, context.operand(0), query, [heads * size, shared * size, shared * size])
    rest = range(3, len(context.node.inputs))
    head, frequencies = "d", "frequency"
    if turns and cache is not None:
        head, frequencies = _turned(size, cache[-1], interleaved=bool(context.attribute("rotary_interleaved", 0)))
    table = f"place {frequencies}"
    inputs = [
        f"n s (k r {head})", f"n t (k {head})", "n t (k e)", f"n k p {_whole(head)}", "n k p e", "*lengths", "*total",
        table, table, "*place", "n (k r) s all", "(k r)", "*key_scale", "*value_scale", _whole(head), _whole(head),
    ]  # fmt: skip
    signature = Signature(
        _parse(inputs[: len(context.node.inputs)]),
        _parse(["n s (k r e)", f"n k u {_whole(head)}", "n k u e", "n (k r) s some"]),
        {"k": shared, "r": heads // shared},
        {**dict.fromkeys(_READ_WHOLE, "tokens"), **_IN_PART},
        mixes=("d", "f", "e", *_TURNED),
        contracts=("d", "f"),
    )
    operands = [*[axes for axes, _ in parts], *(context.operand(index) for index in rest)]
    shapes = [*[found for _, found in parts], *(context.shape(index) for index in rest)]
    return apply_signature(context, signature, (operands, shapes), [*([0, 0, 0] if packed else [0, 1, 2]), *rest])


_READ_WHOLE = ("s", "t", "p", "u", "all", "some", "lengths", "total", "place", "key_scale", "value_scale")
_TURNED = ("#2", "part")
"""What a rotation adds up over: the two of a pair, or a head of which only a part is turned."""

_IN_PART = {"part": "turned in part", "frequency": "turned in part"}


def _turned(size: int, frequencies: int, *, interleaved: bool) -> tuple[str, str]:
    """The factors of a head of which pairs of units are turned, and of the tables of angles.

    A head is (2 f), or (f 2) where interleaved. Where only a part of a head is turned, all of its units are fixed.
    """
    if size != 2 * frequencies:
        return "part", "frequency"
    return ("f 2" if interleaved else "2 f"), "f"


def _whole(head: str) -> str:
    """A head as an axis of its own."""
    return f"({head})" if " " in head else head


@rule("rotary_embedding", typed=None)
def rotary_embedding(context: NodeContext) -> tuple[Axes | None, ...]:
    """Rotary embedding turns pairs of units by an angle of their own: pairs stay whole and follow their frequency."""
    microsoft = context.node.domain == "com.microsoft"
    caches = (2, 3) if microsoft else (1, 2)
    shape, cache = context.shape(0), context.shape(caches[0])
    if shape is None or cache is None or len(shape) not in {3, 4} or context.attribute("is_packed_batching", 0):
        return context.freeze("a rotation of unknown form")
    heads = shape[1] if len(shape) == 4 else int(context.attribute("num_heads", 0) or shape[-1] // (2 * cache[-1]))
    size = shape[-1] if len(shape) == 4 else shape[-1] // heads
    head, frequencies = _turned(size, cache[-1], interleaved=bool(context.attribute("interleaved", 0)))
    whole = f"n h s {_whole(head)}" if len(shape) == 4 else f"n s (h {head})"
    table = f"p {frequencies}" if len(cache) == 2 else f"n s {frequencies}"
    inputs = [whole, "*q", table, table] if microsoft else [whole, table, table, "*q"]
    fixed = {"p": "positions", "s": "positions", "q": "positions", **_IN_PART}
    return apply_patterns(context, inputs[: len(context.node.inputs)], [whole], {"h": heads}, fixed, _TURNED)


def _parse(patterns: Sequence[str]) -> tuple[Pattern, ...]:
    return tuple(parse_pattern(text) for text in patterns)
