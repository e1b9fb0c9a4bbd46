"""Own options of a method, and a candidate with its own, as tables and pages name them."""

from __future__ import annotations

from onnxmerge.pipeline.selection.search import Candidate


def own_option(name: str, value: object) -> str:
    """An option of the method's own, and its value."""
    if isinstance(value, tuple):
        return f"{name} {', '.join(map(str, value))}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def tried(candidate: Candidate) -> str:
    """The method of a candidate, and those of its options that tell it from others; alpha has a column of its own."""
    return ", ".join([candidate.method, *(own_option(*pair) for pair in candidate.own if pair[0] != "alpha")])
