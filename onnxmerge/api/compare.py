"""``compare``: two files of one network, before and after an optimiser, an exporter's upgrade or a quantiser."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxmerge.calibration.sources import SourceSpec, open_source
from onnxmerge.calibration.specs import input_specs, is_batched
from onnxmerge.checking.drift import Drift, drifts, drifts_by_name
from onnxmerge.checking.finding import encodable
from onnxmerge.checking.observed import Agreement, Observed
from onnxmerge.checking.runs import first_rows, open_runner
from onnxmerge.errors import InputError, StructureError
from onnxmerge.evaluation.candidate import free_batch
from onnxmerge.model.arrays import is_floating
from onnxmerge.model.comparison import TOLERANCES
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.pair import pair
from onnxmerge.model.sample import SampleInput, synthesize
from onnxmerge.pipeline.job import Job, silent
from onnxmerge.pipeline.matching import match, measured
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.prepare import ModelSource, read_models, sample_from, type_models
from onnxmerge.types import Array, Arrays
from onnxmerge.units.permutations import transported

ROWS = 8
"""Samples on which layers are compared."""


@dataclass(frozen=True, slots=True)
class WeightDrift:
    """One initializer, under the first model's name: the largest difference relative to its largest value."""

    name: str
    relative: float


@dataclass(frozen=True, slots=True)
class OutputDrift:
    """One output over all data: largest error relative to its largest value, cosine, and share of equal classes."""

    name: str
    relative: float
    cosine: float
    top1: float | None


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """How two models differ.

    ``structure`` is where their structures part (None: they are one structure). Of one structure ``layers`` and
    ``weights`` compare all tensors, of two ``layers`` those that both have by name. ``same`` says whether their outputs
    agree on all data, ``reordered`` whether layers and weights are compared with the second model's units in the order
    of the first, which brings them nearer. ``failure`` says why outputs could not be compared.
    """

    models: tuple[str, str]
    structure: str | None
    same: bool
    outputs: tuple[OutputDrift, ...]
    samples: int
    failure: str | None = None
    reordered: bool = False
    layers: tuple[Drift, ...] = ()
    weights: tuple[WeightDrift, ...] = ()

    @property
    def first_difference(self) -> Drift | None:
        """The first layer that differs, in topological order."""
        return next((layer for layer in self.layers if layer.differs), None)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON; numbers that are not finite as text."""
        first = self.first_difference
        found = {**asdict(self), "first_difference": None if first is None else asdict(first)}
        told: dict[str, Any] = json_values(found)
        return told


def compare(
    first: ModelSource,
    second: ModelSource,
    *,
    data: SourceSpec | None = None,
    inputs: Mapping[str, SampleInput] | None = None,
    operators: Path | None = None,
    image_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    provider: str = "cpu",
) -> ModelComparison:
    """Whether two models are one structure and one function, and from which layer on they differ.

    Units are matched by their weights, as ``--method rebasin`` does. See ``inspect`` and ``merge`` for the arguments;
    without ``data`` models run on a synthetic sample of the first.

    Raises:
        InputError: a model or the data cannot be read, or the first model does not run.

    """
    one, other = read_models([first, second], inputs)
    feeds = _feeds(one, data, inputs, image_options or {})
    seen, sample = _observed(one, other, feeds, provider)
    outputs = tuple(_output(name, agreement) for (_, name), agreement in seen.agreements.items())
    labels, failure = (one.label, other.label), seen.errors.get(0) or _unequal(seen)
    tolerance = max(map(_tolerance, (one, other)))
    near = all(each.relative <= tolerance for each in outputs)
    same = failure is None and bool(outputs or seen.exact) and near
    try:
        models = pair([one, other])
    except StructureError as error:
        layers = tuple(_by_name(one, other, sample, tolerance, provider))
        return ModelComparison(labels, str(error), same, outputs, seen.samples, failure, layers=layers)
    weights, theirs = tuple(_weights(models, models.weights[1])), models.weights[1]
    reordered = False
    if any(each.relative for each in weights):
        moved = _reordered(models, sample, operators, seed, provider)
        nearer = tuple(_weights(models, moved))
        if sum(each.relative for each in nearer) < sum(each.relative for each in weights):
            weights, theirs, reordered = nearer, moved, True
    layers = tuple(drifts(models, sample, theirs))
    return ModelComparison(labels, None, same, outputs, seen.samples, failure, reordered, layers, weights)


def _feeds(
    network: Network, data: SourceSpec | None, inputs: Mapping[str, SampleInput] | None, images: Mapping[str, Any]
) -> Iterator[dict[str, Array]]:
    if data is None:
        yield dict(sample_from(network, inputs) or synthesize(network))
        return
    specs = input_specs(network.model)
    yield from open_source(data, free_batch(specs) if is_batched(specs) else specs, **images)


def _observed(
    one: Network, other: Network, feeds: Iterator[dict[str, Array]], provider: str
) -> tuple[Observed, dict[str, Array]]:
    """What the second gives beside the first over all data, and the first rows of it."""
    runner, beside = open_runner(one, provider), open_runner(other, provider)
    seen, sample = Observed(), dict[str, Array]()
    for feed in feeds:
        given = runner.fitting(feed)
        sample = sample or (first_rows(given, ROWS) if runner.batched and runner.free else given)
        seen.take(runner, given, (beside,))
    return seen, sample


def _reordered(models: ModelSet, sample: Arrays, operators: Path | None, seed: int, provider: str) -> Arrays:
    """The weights of the second model with its units in the order of the first."""
    prepared = type_models(models, dict(sample), operators)
    job = Job(prepared, None, MergeOptions(method="rebasin", seed=seed, provider=provider, repair="none"), silent)
    found = match(job, measured(job, [job.options]))
    return transported(prepared.models.weights[1], prepared.typing, found.permutations[0])


def _by_name(
    one: Network, other: Network, sample: dict[str, Array], tolerance: float, provider: str
) -> Iterator[Drift]:
    """Layers of networks of other structures; none where the second does not run, which ``failure`` says."""
    try:
        theirs = open_runner(other, provider).fitting(sample)
        yield from drifts_by_name(one, other, sample, theirs, tolerance=tolerance, provider=provider)
    except InputError:
        return


def _weights(models: ModelSet, others: Arrays) -> Iterator[WeightDrift]:
    for name in models.weights[0]:
        ours, theirs = models.weights[0][name], others[name]
        if is_floating(ours.dtype):
            old, new = ours.astype(np.float64), theirs.astype(np.float64)
            finite = np.isfinite(old) & np.isfinite(new)
            scale = float(np.abs(old[finite]).max(initial=0.0))
            wrong = float(np.abs(old[finite] - new[finite]).max(initial=0.0))
            yield WeightDrift(name, wrong / scale if scale else (math.inf if wrong else 0.0))


def _unequal(seen: Observed) -> str | None:
    """What is to be said of an output that is no float and differs."""
    name = next((name for (_, name), equal in seen.exact.items() if not equal), None)
    return None if name is None else f"output {name!r}, which holds no floats, differs"


def _output(name: str, found: Agreement) -> OutputDrift:
    top1 = found.top1 / found.rows if found.rows else None
    return OutputDrift(name, found.relative, found.cosine, top1)


def _tolerance(network: Network) -> float:
    """What is rounding, by the coarsest type of its weights."""
    types = {network.weights.tensor(name).dtype.name.lower() for name in network.weights}
    return max(TOLERANCES[name] for name in TOLERANCES if name == "float32" or name in types)


def json_values(value: Any) -> Any:
    """Fields of results as plain data; numbers that are not finite as text."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: json_values(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [json_values(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return encodable(value) if isinstance(value, str) else value
