"""The checks of the merged model: finite values, what it costs, and how well it gives its parents' outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.errors import InputError, ResourceError, ValidationError
from onnxmerge.merging.reconstruction import Answers
from onnxmerge.model.exposed import Exposed
from onnxmerge.model.footprint import Footprint, footprint
from onnxmerge.model.interface import declare_ranks
from onnxmerge.model.network import Network
from onnxmerge.model.trace import Trace, trace
from onnxmerge.pipeline.prepare import Prepared
from onnxmerge.pipeline.separation import MergedModel, Parents, inputs_of
from onnxmerge.types import Arrays
from onnxmerge.validation.one_row import one_row
from onnxmerge.validation.reconstruction import reconstruct, reconstructed


def footprints(parents: Parents, prepared: Prepared, product: MergedModel) -> tuple[Footprint, ...]:
    """Of each parent, then of the merged model."""
    template, sample, batch = prepared.models.template, prepared.trace.sample, prepared.batch
    if product.network is template:
        return (footprint(template, prepared.trace.shapes, batch),) * (len(parents.networks) + 1)

    def measured(network: Network) -> Footprint:
        return footprint(network, trace(network, inputs_of(network, sample)).shapes, batch)

    return tuple(map(measured, (*parents.networks, product.network)))


def errors(
    parents: Parents,
    product: MergedModel,
    held: CalibrationSource | None,
    provider: str,
    known: Answers | None = None,
) -> tuple[float | None, ...] | None:
    """The relative error of each parent's outputs in the merged model; None where there is no data to tell it.

    ``known`` is what the parents answered on some of ``held``, where they were run on it before.
    """
    if held is None:
        return None
    if known is not None and parents.separation is None:
        return reconstructed(product.network, product.weights, known)
    return reconstruct(product.model, product.weights, product.outputs, parents.networks, held, provider=provider)


def require_finite(parents: Parents, prepared: Prepared, product: MergedModel, provider: str) -> None:
    """The merged model must run on the traced sample, and give finite values wherever the first parent does.

    Of a large network one row of it will do, where all ranks are declared and its parents are finite there.

    Where heads are apart, wherever each head's own parent does. Ranks that no model declares are noted on the way.
    """
    exposed, models = prepared.trace.exposed, prepared.models
    merged = exposed if product.network is models.template else Exposed(product.network)
    sample, after = _looked_at(merged, product, prepared.trace, provider)
    declare_ranks(product.model.graph, {**sample, **after})
    apart = parents.separation is not None

    def answers(index: int) -> list[NDArray[Any]]:
        network = parents.networks[index]
        if apart:  # heads of its own
            found = Exposed(network).answers({}, inputs_of(network, sample), provider=provider)
        else:
            found = exposed.answers(models.weights[index], sample, provider=provider)
        return list(found.values())

    wrong = _not_finite(after)
    for index, names in enumerate(product.outputs if apart else product.outputs[:1]):
        if not wrong.intersection(names):
            continue
        for place, (name, own) in enumerate(zip(names, answers(index), strict=True)):
            if name in wrong and own.dtype.kind == "f" and np.isfinite(own).all():
                for other in () if apart else range(1, len(parents.networks)):
                    if not np.isfinite(answers(other)[place]).all():
                        raise ValidationError(
                            f"{parents.networks[other].label}: has infinities of its own: its output for {name!r} is "
                            f"not finite where that of {parents.networks[index].label} is, and so is the merged "
                            "model's; leave this model out"
                        )
                raise ValidationError(
                    f"{parents.networks[index].label}: output {name!r} of the merged model is not finite where its "
                    "parents' is; try --repair none, or another method"
                )


def _looked_at(merged: Exposed, product: MergedModel, trace: Trace, provider: str) -> tuple[Arrays, Arrays]:
    """What the merged model is run on, and its outputs: one row of a large one, where that tells enough; else all.

    One row may not tell the rank of an output that declares none, and what compares rows with each other may not be
    finite on one alone. A network may run on the batch of the traced sample only.
    """
    row = one_row(trace)
    values = (*product.model.graph.inputs, *product.model.graph.outputs)
    if row is not trace.sample and not any(value.type is None or value.shape is None for value in values):
        try:
            after = merged.answers(product.weights, row, provider=provider)
        except ResourceError:
            raise
        except InputError:
            after = {}
        if after and not _not_finite(after):
            return row, after
    return trace.sample, merged.answers(product.weights, trace.sample, provider=provider)


def _not_finite(outputs: Arrays) -> set[str]:
    """The names of floats that are not all finite."""
    return {name for name, array in outputs.items() if array.dtype.kind == "f" and not np.isfinite(array).all()}
