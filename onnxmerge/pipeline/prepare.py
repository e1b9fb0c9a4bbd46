"""The first stages, shared by every command: read, pair up, trace, type."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.axes.infer import type_graph
from onnxmerge.axes.operators import OperatorTable, read_operators
from onnxmerge.calibration.specs import input_specs, is_batched
from onnxmerge.errors import InputError, ValidationError
from onnxmerge.heads.assembly import inseparable
from onnxmerge.model.dequantise import dequantised
from onnxmerge.model.hoist import trace_inside
from onnxmerge.model.interface import declared_alike
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.pair import pair
from onnxmerge.model.read import read_network
from onnxmerge.model.sample import SampleInput, synthesize
from onnxmerge.model.scheme import Scheme
from onnxmerge.model.trace import Trace
from onnxmerge.units.layout import Typing
from onnxmerge.validation.certificate import Certificate, certify

ModelSource = str | os.PathLike[str] | ir.Model | onnx.ModelProto


@dataclass(frozen=True, slots=True)
class Prepared:
    """Models of one structure, the trace of the first, and the typing that all of them fit."""

    models: ModelSet
    trace: Trace
    typing: Typing
    operators: OperatorTable | None = None

    @property
    def traced(self) -> Network:
        """The template as it was traced and typed: with the branches of its Ifs hoisted (see ``model.hoist``)."""
        return self.trace.network

    @property
    def batch(self) -> int:
        """How many samples the trace is of."""
        if not is_batched(input_specs(self.models.template.model)):
            return 1
        return max((len(array) for array in self.trace.sample.values()), default=1)

    def certify(self, index: int, *, seed: int, provider: str) -> Certificate:
        """The certificate of one of the models."""
        weights = self.models.weights[index]
        return certify(self.typing, self.trace, weights=weights, seed=seed, provider=provider)


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """The model that others were fine-tuned from, with its weights under the template's names."""

    network: Network
    weights: Mapping[str, NDArray[Any]]


def load(models: Sequence[ModelSource]) -> ModelSet:
    """Read the models and pair them up.

    Raises InputError for a model that cannot be read or holds nan, StructureError where their structures differ.
    """
    return pair(read_models(models))


def read_models(models: Sequence[ModelSource], inputs: Mapping[str, SampleInput] | None = None) -> tuple[Network, ...]:
    """Read the models, and let them declare their inputs alike (see ``model.interface``).

    ``inputs`` are what is known of those of the first. Raises InputError for a model that cannot be read or holds nan.
    """
    return _usable([read_network(model) for model in models], inputs)


def read_floats(
    models: Sequence[ModelSource], inputs: Mapping[str, SampleInput] | None = None
) -> tuple[tuple[Network, ...], tuple[Scheme | None, ...], InputError | None]:
    """The same of the float networks that quantised models stand for, and the schemes that these were quantised by.

    Where one of them cannot be taken apart all are as they were read, and the last says why.
    """
    networks = [read_network(model) for model in models]
    try:
        found = dequantised(networks)
    except InputError as error:
        return _usable(networks, inputs), (None,) * len(networks), error
    return _usable([each.network for each in found], inputs), tuple(each.scheme for each in found), None


def _usable(networks: Sequence[Network], inputs: Mapping[str, SampleInput] | None) -> tuple[Network, ...]:
    """The networks, their inputs declared alike."""
    for network in networks:
        weights = network.weights
        for name in weights:
            if weights.holds_nan(name):
                raise InputError(
                    f"{network.label}: initializer {name!r} holds nan; the model was not trained to its end"
                )
    places = [str(value.name) for value in networks[0].graph.inputs] if networks else []

    def sample(network: Network) -> Mapping[str, NDArray[Any]]:
        names = [str(value.name) for value in network.graph.inputs]
        own = {names[places.index(name)]: given for name, given in (inputs or {}).items() if name in places}
        return sample_from(network, own) or synthesize(network)

    return declared_alike(networks, sample)


def apart(models: ModelSet) -> tuple[ModelSet, Base]:
    """The last of the models by itself, and the others: a base is paired up with them, and not merged."""
    others = ModelSet(models.template, models.weights[:-1], models.sources[:-1])
    return others, Base(models.sources[-1], models.weights[-1])


def type_models(models: ModelSet, sample: Mapping[str, NDArray[Any]] | None, operators: Path | None) -> Prepared:
    """Trace the first model (on a synthetic sample where none is given) and type the graph for all of them.

    A border tensor that no order of its axes could bring back for the heads is fixed like any output.
    """
    table = None if operators is None else read_operators(operators)
    found = trace_inside(models.template, sample)
    while True:
        typing = type_graph(found.network, found, models.weights, table, models.border)
        stuck = inseparable(typing, models.border)
        if not stuck:
            return Prepared(models, found, typing, table)
        models = replace(models, border=models.border - stuck)


def sample_from(network: Network, inputs: Mapping[str, SampleInput] | None) -> dict[str, NDArray[Any]] | None:
    """A sample from what the user said of the inputs; None where nothing was said."""
    if not inputs:
        return None
    names = [value.name for value in network.graph.inputs]
    unknown = [name for name in inputs if name not in names]
    if unknown:
        raise InputError(
            f"{network.label}: there is no input {unknown[0]!r}; its inputs are {', '.join(map(str, names))}"
        )
    arrays = {name: given for name, given in inputs.items() if isinstance(given, np.ndarray)}
    shapes = {name: tuple(given.shape if isinstance(given, np.ndarray) else given) for name, given in inputs.items()}
    if len(arrays) == len(names):
        return dict(arrays)
    return {**synthesize(network, shapes=shapes), **arrays}


def require(certificate: Certificate, label: str) -> None:
    """Raise ValidationError unless the certificate passed."""
    if not certificate.passed:
        raise ValidationError(f"{label}: certificate failed: {certificate.failure}")
