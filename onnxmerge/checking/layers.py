"""Every initializer of a model, and whether a merge touched it: whether it differs from that of each parent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from onnxmerge.checking.finding import Layer
from onnxmerge.checking.subject import Subject
from onnxmerge.errors import InputError
from onnxmerge.model.arrays import identical
from onnxmerge.model.network import Network
from onnxmerge.model.pair import pair
from onnxmerge.types import Arrays


def layers(subject: Subject) -> tuple[Layer, ...]:
    """All initializers, as far as the model can be read."""
    try:
        return tuple(_layers(subject))
    except InputError:  # which the integrity gates say
        return ()


def _layers(subject: Subject) -> Iterator[Layer]:
    own = subject.network.weights
    theirs = [_counterparts(subject.network, parent) for parent in subject.parents]
    # What several nodes share may stand in the certificate as several.
    for name in dict.fromkeys([*own, *subject.layers]):
        known = subject.layers.get(name) or Layer(name, tuple(own[name].shape), None, None)
        found = [weights[name] for weights in theirs if name in weights] if name in own else []
        if found:
            known = replace(known, touched=not any(identical(own[name], each) for each in found))
        yield known


def _counterparts(network: Network, parent: Network) -> Arrays:
    """The weights of a parent under the model's names.

    Where they are one structure, what stands in the same place; else, as where heads were kept apart, what has the same
    name.
    """
    try:
        return pair([network, parent]).weights[1]
    except InputError:
        return parent.weights
