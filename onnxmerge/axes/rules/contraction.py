"""MatMul and Einsum: signatures that depend on the operands' ranks or on an equation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxmerge.axes.node_context import NodeContext
from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.signature import Axes, Signature, apply, parse_pattern

Operands = tuple[Sequence[Axes | None], Sequence[tuple[int, ...] | None]]
"""Axes and shapes."""


def apply_patterns(
    context: NodeContext,
    inputs: Sequence[str],
    outputs: Sequence[str],
    sizes: Mapping[str, int] | None = None,
    fixed: Mapping[str, str] | None = None,
    mixes: Sequence[str] = (),
) -> tuple[Axes | None, ...]:
    """Apply a signature made on the spot, and record what it contracts."""
    patterns = [tuple(parse_pattern(text) for text in side) for side in (inputs, outputs)]
    return apply_signature(context, Signature(patterns[0], patterns[1], sizes or {}, fixed or {}, tuple(mixes)))


def apply_signature(
    context: NodeContext, signature: Signature, operands: Operands | None = None, inputs: Sequence[int] | None = None
) -> tuple[Axes | None, ...]:
    """Apply a signature at a context: unify, and hand on hidden tensors and contracted cells.

    ``operands`` replaces the node's own where the signature is for parts of them; ``inputs`` then says which input
    each one is a part of.
    """
    axes, shapes = operands or (context.operands(), context.input_shapes())
    done = apply(signature, context.cells, axes, shapes, context.output_shapes())
    context.findings.hidden.extend(done.hidden)
    for operand, contracted in enumerate(done.contracted):
        index = operand if inputs is None else inputs[operand]
        name = context.input_name(index)
        if name is not None:
            context.findings.taps.extend((name, cell) for cell in contracted)
            context.findings.summed.setdefault((context.node, index), []).extend(done.summed[operand])
    return done.outputs


@rule("matmul", typed=None)
def matmul(context: NodeContext) -> tuple[Axes | None, ...]:
    """numpy.matmul: batched, or with a vector on either side."""
    first, second = context.shape(0), context.shape(1)
    if first is None or second is None:
        return context.freeze("a matrix product of unknown shapes")
    left = "k" if len(first) == 1 else "*b m k"
    right = "k" if len(second) == 1 else "*b k n"
    out = " ".join(
        part
        for part, wanted in (
            ("*b", len(first) > 1 or len(second) > 1),
            ("m", len(first) > 1),
            ("n", len(second) > 1),
        )
        if wanted
    )
    return apply_patterns(context, [left, right], [out])


@rule("einsum", typed=None)
def einsum(context: NodeContext) -> tuple[Axes | None, ...]:
    """The equation is the signature; an ellipsis is a broadcast star."""
    equation = context.attribute("equation", "")
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    terms, arrow, result = text.partition("->")
    inputs = terms.split(",")
    if not arrow:
        letters = sorted({c for c in terms if c.isalpha()})
        result = ("..." if "..." in terms else "") + "".join(c for c in letters if terms.count(c) == 1)
    if any(len(set(term.replace("...", ""))) != len(term.replace("...", "")) for term in inputs):
        return context.freeze("an Einsum that takes a diagonal")
    return apply_patterns(context, [_spaced(term) for term in inputs], [_spaced(result)])


def _spaced(term: str) -> str:
    return " ".join(term.replace("...", "@")).replace("@", "*ellipsis")
