"""The proof that the units of a model can be reordered (``validation.certificate``), as a gate."""

from __future__ import annotations

from collections.abc import Iterator

from onnxmerge.checking.finding import Finding, Layer
from onnxmerge.checking.gate import RUNS, Gate
from onnxmerge.checking.subject import Subject
from onnxmerge.model.pair import pair
from onnxmerge.pipeline.prepare import type_models
from onnxmerge.validation.coverage import coverage, moves


def _groups(subject: Subject) -> Iterator[Finding]:
    if not subject.settings.certify:
        yield subject.skip(GROUPS.id, "no --certify")
        return
    prepared = type_models(pair([subject.network]), subject.sample, subject.settings.operators)
    typing, weights = prepared.typing, prepared.models.weights[0]
    for name in weights:
        layout = typing.initializers.get(name)
        free = layout is not None and moves(layout, typing.spaces)
        shape = tuple(subject.network.weights[name].shape) if name in subject.network.weights else weights[name].shape
        subject.layers[name] = Layer(name, shape, free, None)
    found = prepared.certify(0, seed=subject.settings.seed, provider=subject.settings.provider)
    measured = f"error {found.max_relative_error:.1e} on {found.values_compared} values"
    if not found.passed:
        told = f"{found.failure}; see onnxmerge inspect --explain, and report it"
        yield Finding(GROUPS.id, "error", "", measured, found.tolerance, "fail", told)
    elif not any(layer.free for layer in subject.layers.values()):
        told = "no unit of this model is free, so its certificate says nothing: leave out --certify"
        yield Finding(GROUPS.id, "error", "", measured, found.tolerance, "unsupported", told)
    else:
        share = coverage(weights, typing).free_elements
        measured = f"{measured}, {share:.1%} of weights moved"
        yield Finding(GROUPS.id, "error", "", measured, found.tolerance, "pass", "")


GROUPS = Gate("certificate.groups", "reordering the units that are free changes nothing", _groups, RUNS, "certify")
