"""The last stage: what the merged model costs and how well it gives its parents' outputs."""

from __future__ import annotations

from onnxmerge.api.prepare import Prepared
from onnxmerge.api.separation import Parents, Product, inputs_of
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.specs import input_specs, is_batched
from onnxmerge.merging.reconstruction import Reference
from onnxmerge.model.footprint import Footprint, footprint
from onnxmerge.model.network import Network
from onnxmerge.model.trace import trace
from onnxmerge.validation.reconstruction import reconstruct, reconstructed


def footprints(parents: Parents, prepared: Prepared, product: Product) -> tuple[Footprint, ...]:
    """Of each parent, then of the merged model."""
    template, sample = prepared.models.template, prepared.trace.sample
    batch = 1
    if is_batched(input_specs(template.model)):
        batch = max((len(array) for array in sample.values()), default=1)
    if product.network is template:
        return (footprint(template, prepared.trace.shapes, batch),) * (len(parents.networks) + 1)

    def measured(network: Network) -> Footprint:
        return footprint(network, trace(network, inputs_of(network, sample)).shapes, batch)

    return tuple(map(measured, (*parents.networks, product.network)))


def errors(
    parents: Parents,
    product: Product,
    held: CalibrationSource | None,
    provider: str,
    known: Reference | None = None,
) -> tuple[float | None, ...] | None:
    """The relative error of each parent's outputs in the merged model; None where there is no data to tell it.

    ``known`` is what the parents answered on some of ``held``, where they were run on it before.
    """
    if held is None:
        return None
    if known is not None and parents.separation is None:
        return reconstructed(product.network, product.weights, known)
    return reconstruct(product.model, product.weights, product.outputs, parents.networks, held, provider=provider)
