"""Own options of a method, candidates with theirs, and weights of models, as tables and pages name them."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmerge.pipeline.selection.search import Candidate
from onnxmerge.pipeline.selection.weighing import WeightsReport


def own_option(name: str, value: object) -> str:
    """An option of the method's own, and its value."""
    if isinstance(value, tuple):
        return f"{name} {', '.join(map(str, value))}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def tried(candidate: Candidate) -> str:
    """The method of a candidate, and those of its options that tell it from others; alpha has a column of its own."""
    return ", ".join([candidate.method, *(own_option(*pair) for pair in candidate.own if pair[0] != "alpha")])


def listed_weights(weights: Sequence[float]) -> str:
    """Weights of models, one after the other."""
    return ", ".join(f"{weight:g}" for weight in weights)


def weights_found(weighing: WeightsReport) -> str:
    """The weights that were found, and what the models know by what they were found."""
    found = weighing.candidates[weighing.chosen].found
    known = ", ".join(f"{accuracy:.1%}" for accuracy in weighing.parents)
    return f"{listed_weights(weighing.weights)} ({found}; the models are right on {known}, by their own lights)"
