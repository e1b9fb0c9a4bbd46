"""MatMul and Einsum: signatures that depend on the operands' ranks or on an equation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.signature import Axes, Signature, apply, parse_pattern
from onnxmerge.axes.site import Site

Operands = tuple[Sequence[Axes | None], Sequence[tuple[int, ...] | None]]
"""Axes and shapes."""


def apply_patterns(
    site: Site,
    inputs: Sequence[str],
    outputs: Sequence[str],
    sizes: Mapping[str, int] | None = None,
    fixed: Mapping[str, str] | None = None,
    mixes: Sequence[str] = (),
) -> tuple[Axes | None, ...]:
    """Apply a signature made on the spot, and record what it contracts."""
    patterns = [tuple(parse_pattern(text) for text in side) for side in (inputs, outputs)]
    return apply_signature(site, Signature(patterns[0], patterns[1], sizes or {}, fixed or {}, tuple(mixes)))


def apply_signature(
    site: Site, signature: Signature, operands: Operands | None = None, inputs: Sequence[int] | None = None
) -> tuple[Axes | None, ...]:
    """Apply a signature at a site: unify, and hand on hidden tensors and contracted cells.

    ``operands`` replaces the node's own where the signature is for parts of them; ``inputs`` then says which input
    each one is a part of.
    """
    axes, shapes = operands or (site.operands(), site.input_shapes())
    done = apply(signature, site.cells, axes, shapes, site.output_shapes())
    site.findings.hidden.extend(done.hidden)
    for operand, contracted in enumerate(done.contracted):
        index = operand if inputs is None else inputs[operand]
        name = site.input_name(index)
        if name is not None:
            site.findings.taps.extend((name, cell) for cell in contracted)
            site.findings.summed.setdefault((site.node, index), []).extend(done.summed[operand])
    return done.outputs


@rule("matmul", typed=None)
def matmul(site: Site) -> tuple[Axes | None, ...]:
    """numpy.matmul: batched, or with a vector on either side."""
    first, second = site.shape(0), site.shape(1)
    if first is None or second is None:
        return site.freeze("a matrix product of unknown shapes")
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
    return apply_patterns(site, [left, right], [out])


@rule("einsum", typed=None)
def einsum(site: Site) -> tuple[Axes | None, ...]:
    """The equation is the signature; an ellipsis is a broadcast star."""
    equation = site.attribute("equation", "")
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    terms, arrow, result = text.partition("->")
    inputs = terms.split(",")
    if not arrow:
        letters = sorted({c for c in terms if c.isalpha()})
        result = ("..." if "..." in terms else "") + "".join(c for c in letters if terms.count(c) == 1)
    if any(len(set(term.replace("...", ""))) != len(term.replace("...", "")) for term in inputs):
        return site.freeze("an Einsum that takes a diagonal")
    return apply_patterns(site, [_spaced(term) for term in inputs], [_spaced(result)])


def _spaced(term: str) -> str:
    return " ".join(term.replace("...", "@")).replace("@", "*ellipsis")
