"""MatMul and Einsum: signatures that depend on the operands' ranks or on an equation."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmerge.axes.rules.registry import rule
from onnxmerge.axes.signature import Axes, Signature, apply, parse_pattern
from onnxmerge.axes.site import Site


def apply_patterns(site: Site, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[Axes | None, ...]:
    """Apply a signature made on the spot, and record what it contracts."""
    signature = Signature(
        tuple(parse_pattern(text) for text in inputs), tuple(parse_pattern(text) for text in outputs)
    )
    return apply_signature(site, signature)


def apply_signature(site: Site, signature: Signature) -> tuple[Axes | None, ...]:
    """Apply a signature at a site: unify, and hand on hidden statistics and contracted cells."""
    done = apply(signature, site.cells, site.operands(), site.input_shapes(), site.output_shapes())
    if done.hidden is not None:
        site.findings.hidden.append(done.hidden)
    for index, contracted in enumerate(done.contracted):
        name = site.input_name(index)
        if name is not None:
            site.findings.taps.extend((name, cell) for cell in contracted)
    return done.outputs


@rule("matmul")
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


@rule("einsum")
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
