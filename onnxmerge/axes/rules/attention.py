"""Fused attention with packed weights or biases, and rotary embedding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from onnxmerge.axes.rules.contraction import apply_patterns, apply_signature
from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.rules.segments import take_segment
from onnxmerge.axes.signature import Axes, MisfitError, Pattern, Signature, parse_pattern
from onnxmerge.axes.site import Site

Shape = tuple[int, ...]


def _three(
    site: Site, axes: Axes | None, shape: Shape | None, sizes: Sequence[int]
) -> list[tuple[Axes | None, Shape | None]]:
    """The parts for q, k and v of the last axis of an operand."""
    if axes is None or shape is None:
        return [(None, None)] * 3
    if sum(sizes) != shape[-1]:
        raise MisfitError(f"{shape[-1]} is not {' + '.join(map(str, sizes))}")
    starts = [0, *accumulate(sizes)]
    last = len(shape) - 1
    return [
        (take_segment(site, axes, last, start, start + size, shape[-1]), (*shape[:-1], size))
        for start, size in zip(starts, sizes, strict=False)
    ]


@rule("packed_attention", typed=None)
def packed_attention(site: Site) -> tuple[Axes | None, ...]:
    """com.microsoft Attention and PackedAttention: q, k and v come from one matrix with their columns side by side."""
    weights, shape = site.operand(1), site.shape(1)
    heads = int(site.attribute("num_heads", 0))
    past = site.node.op_type == "Attention" and (site.input_name(4) or site.attribute("do_rotary", 0))
    if weights is None or shape is None or heads < 1 or past or len(site.node.outputs) > 1:
        return site.freeze("attention with a past, a rotation or packed in an unknown way")
    given = site.attribute("qkv_hidden_sizes")
    sizes = [int(size) for size in given] if given else [shape[-1] // 3] * 3
    parts = [*_three(site, weights, shape, sizes), *_three(site, site.operand(2), site.shape(2), sizes)]
    operands = [site.operand(0), *[axes for axes, _ in parts]]
    shapes = [site.shape(0), *[found for _, found in parts]]
    for index in range(3, len(site.node.inputs)):
        if site.node.op_type == "Attention" and index == 5:
            continue
        site.fix(site.operand(index) or (), "an operand that is read as a whole")
    attention_bias = site.input_name(5) is not None and site.node.op_type == "Attention"
    signature = Signature(
        _parse(["*b i", "i (h d)", "i (h d)", "i (h e)", "(h d)", "(h d)", "(h e)", "n h s t"]),
        _parse(["*b (h e)"]),
        {"h": heads},
        {"s": "tokens", "t": "tokens"},
    )
    inputs = [0, 1, 1, 1, 2, 2, 2]
    if attention_bias:
        operands.append(site.operand(5))
        shapes.append(site.shape(5))
        inputs.append(5)
    return apply_signature(site, signature, (operands, shapes), inputs)


@rule("multi_head_attention", typed=None)
def multi_head_attention(site: Site) -> tuple[Axes | None, ...]:
    """com.microsoft MultiHeadAttention: separate q, k and v of rank 3, with a packed bias."""
    query, key, value = site.shape(0), site.shape(1), site.shape(2)
    plain = [shape for shape in (query, key, value) if shape is not None and len(shape) == 3]
    if len(plain) < 3 or query is None or value is None or any(site.input_name(index) for index in range(6, 10)):
        return site.freeze("attention with a past or packed in an unknown way")
    sizes = [query[-1], query[-1], value[-1]]
    site.fix(site.operand(4) or (), "an operand that is read as a whole")
    biases = _three(site, site.operand(3), site.shape(3), sizes)
    operands = [*site.operands()[:3], *[axes for axes, _ in biases], site.operand(5)]
    shapes = [*site.input_shapes()[:3], *[found for _, found in biases], site.shape(5)]
    signature = Signature(
        _parse(["n s (h d)", "n t (h d)", "n t (h e)", "(h d)", "(h d)", "(h e)", "n h s t"]),
        _parse(["n s (h e)"]),
        {"h": int(site.attribute("num_heads", 0))},
        {"s": "tokens", "t": "tokens"},
    )
    return apply_signature(site, signature, (operands, shapes), [0, 1, 2, 3, 3, 3, 5])


@rule("rotary_embedding", typed=None)
def rotary_embedding(site: Site) -> tuple[Axes | None, ...]:
    """Rotary embedding turns pairs of units by an angle of their own: pairs stay whole and follow their frequency.

    A head is (2 f), or (f 2) where interleaved. Where only a part of a head is turned, all of its units are fixed.
    """
    microsoft = site.node.domain == "com.microsoft"
    caches = (2, 3) if microsoft else (1, 2)
    shape, cache = site.shape(0), site.shape(caches[0])
    if shape is None or cache is None or len(shape) not in {3, 4} or site.attribute("is_packed_batching", 0):
        return site.freeze("a rotation of unknown form")
    heads = shape[1] if len(shape) == 4 else int(site.attribute("num_heads", 0) or shape[-1] // (2 * cache[-1]))
    size = shape[-1] if len(shape) == 4 else shape[-1] // heads
    pair = "f 2" if site.attribute("interleaved", 0) else "2 f"
    frequencies = "f"
    if size != 2 * cache[-1]:
        pair, frequencies = "d", "rest"
    whole = f"n h s ({pair})" if len(shape) == 4 else f"n s (h {pair})"
    table = f"p {frequencies}" if len(cache) == 2 else f"n s {frequencies}"
    inputs = [whole, "*q", table, table] if microsoft else [whole, table, table, "*q"]
    fixed = {"p": "positions", "s": "positions", "q": "positions", "d": "turned in part", "rest": "turned in part"}
    return apply_patterns(site, inputs[: len(site.node.inputs)], [whole], {"h": heads}, fixed)


def _parse(patterns: Sequence[str]) -> tuple[Pattern, ...]:
    return tuple(parse_pattern(text) for text in patterns)
