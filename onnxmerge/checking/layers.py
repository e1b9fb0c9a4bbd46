"""Every initializer of a model, and whether a merge touched it: whether it differs from that of each parent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from onnxmerge.checking.finding import Layer
from onnxmerge.checking.subject import Subject
from onnxmerge.errors import InputError
from onnxmerge.model.arrays import identical
from onnxmerge.model.pair import pair


def layers(subject: Subject) -> tuple[Layer, ...]:
    """All initializers, as far as the model can be read."""
    try:
        return tuple(_layers(subject))
    except InputError:  # which the integrity gates say
        return ()


def _layers(subject: Subject) -> Iterator[Layer]:
    try:
        models = pair([subject.network, *subject.parents]) if subject.parents else None
    except InputError:
        models = None
    own = subject.network.weights if models is None else models.weights[0]
    for name in own:
        known = subject.layers.get(name) or Layer(name, tuple(own[name].shape), None, None)
        if models is not None:
            array = own[name]
            touched = not any(identical(array, weights[name]) for weights in models.weights[1:])
            known = replace(known, touched=touched)
        yield known
