"""The law that a model merged with itself is itself, as a measurement: how far the outputs move, setting by setting.

The stages of ``merge`` run one by one here, so that a model is read, typed and measured once for all settings.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.calibration.sources import open_source
from onnxmerge.calibration.specs import input_specs
from onnxmerge.errors import OnnxmergeError
from onnxmerge.matching.method import MatchResult
from onnxmerge.merging.repair.choice import repair_step
from onnxmerge.model.arrays import identical
from onnxmerge.model.comparison import Limits, compare
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.read import read_network
from onnxmerge.model.sample import plausible_samples
from onnxmerge.model.session import open_session
from onnxmerge.pipeline.job import Job, silent
from onnxmerge.pipeline.matching import Measurements, match, measured, planned
from onnxmerge.pipeline.meanings import outputs_of
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.prepare import Prepared, type_models
from onnxmerge.pipeline.restoring import merged
from onnxmerge.types import Array
from onnxmerge.validation.certificate import permute_network

Feed = Mapping[str, Array]

SETTINGS: dict[str, dict[str, Any]] = {
    "mudsc-align": {},
    "act-align": {"method": "act-align"},
    "rebasin": {"method": "rebasin"},
    "zipit": {"method": "zipit"},
    "none": {"repair": "none"},
    "repair": {"repair": "repair"},
    "rescale": {"repair": "rescale"},
    "bias": {"repair": "bias"},
    "regmean": {"refine": "regmean"},
    "ls": {"refine": "ls"},
    "zipit ls": {"method": "zipit", "refine": "ls"},
    "member ls": {"method": "zipit", "refine": "ls", "own": (("zip_unit", "member"),)},
}
"""What is held to the law: matched by both, activations, weights or a zip; each repair and each refinement."""

_INTEGERS = "quantised: integers of different units cannot be averaged, so a matching that is not exact is refused"

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("corpus/div_wakehubert_int8", "act-align"): _INTEGERS,
    ("corpus/div_wakehubert_int8", "zipit"): _INTEGERS,
    ("corpus/div_wakehubert_int8", "zipit ls"): _INTEGERS,
    ("corpus/div_wakehubert_int8", "member ls"): _INTEGERS,
}
"""What does not hold, by model and setting, and why. What holds again is to be taken out."""

LIMITS = Limits(tolerance=1e-5, rounding=2.0**-21)
"""How far outputs may move, relative to their largest, and what is rounding of an output that is close to zero."""

MOST_VALUES = 500_000
"""Numbers in all inputs of the calibration data, at most: large images come in fewer."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model with data: ``feeds`` to calibrate on, ``tests`` to compare outputs on."""

    network: Network
    prepared: Prepared
    feeds: Sequence[Feed]
    tests: Sequence[Feed]


def model_of(source: Any, feeds: Sequence[Feed] = (), samples: int = 96) -> Model:
    """A model, typed, with random data where none is given."""
    network = read_network(source)
    alone = ModelSet(network, (network.weights,), (network,))
    prepared = type_models(alone, dict(feeds[0]) if feeds else None, None)
    if not feeds:
        feeds = list(_random(network, prepared, samples))
    return Model(network, prepared, feeds[:-2], [prepared.trace.sample, *feeds[-2:]])


def _random(network: Network, prepared: Prepared, samples: int) -> Iterator[Feed]:
    sample = prepared.trace.sample
    shapes = {name: array.shape for name, array in sample.items()}
    rows = max(next((array.shape[0] for array in sample.values() if array.ndim), 1), 1)
    size = sum(array.size for array in sample.values()) / rows
    for seed in range(2 + max(4, int(min(samples, MOST_VALUES / size)) // rows)):
        found = next(iter(plausible_samples(network, seed=seed + 1, shapes=shapes)))
        yield {name: sample[name] if _steady(array) else array for name, array in found.items()}


def _steady(array: NDArray[Any]) -> bool:
    """Whether an input is no data: a switch, a length, a state of zeros."""
    return array.ndim == 0 or not array.any()


def moved(model: Model, *, permuted: bool, settings: Sequence[str] = tuple(SETTINGS)) -> dict[str, float | str]:
    """How far outputs move when the model is merged with itself, or with a permuted copy, for each of the settings.

    That is the largest relative error over outputs and inputs; or what was raised. Settings that measure alike share
    what was measured, and those that match alike the matching.
    """
    network, prepared = model.network, model.prepared
    copy = permute_network(network, prepared.typing, 7) if permuted else network.weights
    models = ModelSet(network, (network.weights, copy), (network, network))
    both = replace(prepared, models=models)
    source = open_source([dict(feed) for feed in model.feeds], input_specs(network.model))
    job = Job(both, source, MergeOptions(method="mudsc-align", refine="none", provider="cpu"), silent)
    job = replace(job, outputs=outputs_of(job, {}))
    session = open_session(network.model)
    own = [session.run(feed) for feed in model.tests]
    trials = {name: replace(job.options, **SETTINGS[name]) for name in settings}
    known = _Known([*trials.values()])
    found: dict[str, float | str] = {}
    for name, options in trials.items():
        trial = replace(job, options=options)
        try:
            measurements, matched = known(trial)
            step = repair_step(network.graph, prepared.typing, trial.options.repair)
            weights = merged(trial, matched, measurements, step).weights
        except OnnxmergeError as error:
            found[name] = f"{type(error).__name__}: {error}"
            continue
        if all(identical(weights[each], network.weights[each]) for each in network.weights):
            found[name] = 0.0
            continue
        after = open_session(network.model, weights=weights)
        found[name] = max(
            _distance(one, other) for one, feed in zip(own, model.tests, strict=True) for other in [after.run(feed)]
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """What was measured, for all settings of ``trials`` at once, and matched, by what it depends on in ``SETTINGS``."""

    trials: Sequence[MergeOptions]
    measurements: list[Measurements] = field(default_factory=list)
    matchings: dict[Hashable, MatchResult] = field(default_factory=dict)

    def __call__(self, trial: Job) -> tuple[Measurements, MatchResult]:
        plans = planned(trial)
        known = next((each for each in self.measurements if {*plans.moments} <= {*each.moments}), None)
        if known is None:
            known = measured(trial, self.trials)
            self.measurements.append(known)
        key = trial.options.method, plans.moments
        measurements = replace(plans, statistics=known.statistics)
        if key not in self.matchings:
            self.matchings[key] = match(trial, measurements)
        return measurements, self.matchings[key]


def broken(moved: Mapping[str, float | str]) -> dict[str, float | str]:
    """The settings by which outputs moved more than ``LIMITS`` allow, or that raised an error."""
    return {name: each for name, each in moved.items() if isinstance(each, str) or not each <= LIMITS.tolerance}


def _distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest relative error over float outputs; infinite where shapes differ or integers do."""
    arrays = [(value, other[name]) for name, value in one.items() if isinstance(value, np.ndarray)]
    results = [compare(*pair, LIMITS) for pair in arrays if pair[0].dtype.kind not in "OSU"]
    return max((result.relative if result.same else np.inf for result in results), default=0.0)
