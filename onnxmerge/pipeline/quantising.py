"""Quantised parents: merged as the float networks that they stand for, and quantised again as the first of them was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxmerge.activations.measuring import samples_at_once
from onnxmerge.calibration.batches import parts, takes_any
from onnxmerge.calibration.chunks import rows
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.subset import Spread
from onnxmerge.errors import UsageError
from onnxmerge.model.network import Network
from onnxmerge.model.precision import halved
from onnxmerge.model.scheme import Range, Scheme, requantised, untied
from onnxmerge.model.session import open_session
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.separation import MergedModel, Parents
from onnxmerge.types import Arrays
from onnxmerge.validation.reconstruction import reconstruct

SAMPLES = 512
"""About so many samples are measured for the ranges of activations."""
ACTIVATIONS = 1 << 28
"""Bytes of activations in one run."""


@dataclass(frozen=True, slots=True)
class QuantisedReport:
    """How the merged model was quantised.

    ``operators`` say how, ``weights`` and ``activations`` are how many have scales that are stored. ``ranges`` says
    where those of activations come from (None: there are none), ``change`` is |float merge - quantised| / |quantised|
    of the outputs (None: without data).
    """

    operators: tuple[str, ...]
    weights: int
    activations: int
    ranges: str | None
    change: float | None


def require_restorable(schemes: Sequence[Scheme | None], parents: Parents, job: Job) -> None:
    """Raise UsageError where the merged model is to be quantised, and trained or not of the first parent's graph.

    InputError where the quantised graph cannot hold its weights.
    """
    if schemes[0] is None or job.options.output_type != "keep":
        return
    if job.options.export_for_training:
        raise UsageError(
            f"{schemes[0].label} is quantised, and integers are not trained: add --output-type float to "
            "--export-for-training, and quantise what was trained"
        )
    if parents.separation is not None or job.resized is not None or job.options.widens:
        what = "keeps heads apart" if parents.separation is not None else "has other widths"
        raise UsageError(
            f"{schemes[0].label} is quantised, and what {what} cannot be quantised as that was: add "
            "--output-type float, and quantise the result"
        )
    untied(schemes[0], parents.models.template.graph)


def in_output_type(
    job: Job, schemes: Sequence[Scheme | None], product: MergedModel, source: CalibrationSource | None
) -> tuple[MergedModel, QuantisedReport | None]:
    """The merged network in float16 where that is asked for; else quantised as the first parent was, if it was.

    Ranges of activations are those that the first parent declares, moved by how far the merged network's differ from
    those that this parent has on the same data; without data the mean of what the parents declare.
    Raises InputError where the weights cannot be quantised so.
    """
    scheme = schemes[0]
    if job.options.output_type == "float16":
        return replace(product, network=halved(product.network, product.weights), weights={}), None
    if scheme is None or job.options.output_type == "float":
        return product, None
    if source is not None:
        ranges, told = _moved(job, scheme, product, source), "moved as they do on the calibration data"
    else:
        ranges, is_mean = _declared(schemes)
        told = "the mean of the parents'" if is_mean else "the first model's, as no other has quantisers of these names"
    network = requantised(scheme, product.network.graph, product.weights, ranges)
    for values, own in (
        (network.graph.inputs, product.network.graph.inputs),
        (network.graph.outputs, product.network.graph.outputs),
    ):
        for value, declared in zip(values, own, strict=True):
            value.shape = declared.shape
    change = None
    if source is not None:
        names = [str(value.name) for value in product.network.graph.outputs]
        model, weights, provider = product.network.model, product.weights, job.options.provider
        (change,) = reconstruct(model, weights, [names], [network], source, provider=provider)
    report = QuantisedReport(
        scheme.kinds, len(scheme.weights), len(scheme.activations), told if scheme.activations else None, change
    )
    return replace(product, network=network, weights={}), report


def _moved(job: Job, scheme: Scheme, product: MergedModel, source: CalibrationSource) -> dict[str, Range]:
    """The ranges of the first parent, moved as those of the merged network differ from its own on the data."""
    if not scheme.activations:
        return {}
    data = Spread(source, SAMPLES)
    before = _measured(job, product.network, job.prepared.models.weights[0], scheme.measured, data)
    after = _measured(job, product.network, product.weights, scheme.measured, data)
    found, own = dict[str, Range](), scheme.network.weights
    for activation in scheme.activations:
        names = [name for name in activation.values if name in before]
        if not names:
            continue
        (low, high), old, new = activation.declared(own), _union(before, names), _union(after, names)
        width = old[1] - old[0]
        factor = (high - low) / width if width > 0 else 1.0
        if activation.is_symmetric(own):
            reach = max(map(abs, old))
            factor = max(map(abs, new)) / reach if reach > 0 else 1.0
            moved = low * factor, high * factor
        else:
            moved = low + factor * (new[0] - old[0]), high + factor * (new[1] - old[1])
        found[activation.name] = moved
    return found


def _union(ranges: Mapping[str, Range], names: Iterable[str]) -> Range:
    known = [ranges[name] for name in names]
    return min(low for low, _ in known), max(high for _, high in known)


def _measured(
    job: Job, network: Network, weights: Arrays, names: Sequence[str], data: CalibrationSource
) -> dict[str, Range]:
    """The least and the greatest value of tensors of a network with ``weights``."""
    typing, inputs = job.prepared.typing, {str(value.name) for value in network.graph.inputs}
    made = [name for name in names if name not in inputs]
    shaped = [name for name in made if name in typing.activations]
    traced = rows(job.prepared.trace.sample)
    most = samples_at_once(typing, shaped, traced, size=ACTIVATIONS) if takes_any(network.model) else None
    session = open_session(network.model, weights=weights, outputs=made, provider=job.options.provider, optimise=True)
    found = dict[str, Range]()
    for batch in data:
        for part in parts(batch, most):
            values = {**session.run(dict(part)), **{name: part[name] for name in names if name in inputs}}
            for name, value in values.items():
                known = value[np.isfinite(value)]
                own = float(np.min(known, initial=0)), float(np.max(known, initial=0))
                found[name] = own if name not in found else _union({"a": own, "b": found[name]}, "ab")
    return found


def _declared(schemes: Sequence[Scheme | None]) -> tuple[dict[str, Range], bool]:
    """The mean of the ranges that parents declare by scales that they name alike, and whether any are."""
    every: dict[str, list[Range]] = {}
    known = [scheme for scheme in schemes if scheme is not None]
    for scheme in known:
        for activation in scheme.activations:
            every.setdefault(activation.name, []).append(activation.declared(scheme.network.weights))
    means = {
        name: (float(np.mean([low for low, _ in found])), float(np.mean([high for _, high in found])))
        for name, found in every.items()
        if any(found[0] != other for other in found)
    }
    return means, any(len(found) > 1 for found in every.values())
