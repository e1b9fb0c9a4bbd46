"""Separate heads as stages of a merge: where parents are cut, and how the merged file is put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.errors import AdapterError, StructureError, UsageError
from onnxmerge.heads.assembly import assemble
from onnxmerge.heads.cutting import Separation, separate
from onnxmerge.heads.splicing import Reading
from onnxmerge.model.lazy_weights import Overlay
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.pair import pair
from onnxmerge.model.quantised import require_alike_quantised
from onnxmerge.model.sample import SampleInput
from onnxmerge.model.trace import trace
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.prepare import Base, apart, sample_from

TRAILING = 0.5
"""Of models whose structures differ, so much of the layers must be in common for heads to be kept apart unasked."""

MENTIONED = 0.1
"""So much must be in common for that to be a way worth telling of."""


@dataclass(frozen=True, slots=True, eq=False)
class Parents:
    """The parents as they were read, and what of them is merged: all, or trunks in front of a border."""

    networks: tuple[Network, ...]
    models: ModelSet
    separation: Separation | None = None


@dataclass(frozen=True, slots=True, eq=False)
class MergedModel:
    """The merged network with its weights, and the names that each parent's outputs have in it."""

    network: Network
    weights: Mapping[str, NDArray[Any]]
    outputs: tuple[tuple[str, ...], ...]
    separation: Separation | None = None

    @property
    def model(self) -> ir.Model:
        return self.network.model


def part(networks: Sequence[Network], options: MergeOptions) -> Parents:
    """Pair the networks up, wholly or up to where ``options`` or their own differences cut them.

    Raises StructureError where they have too little in common, UsageError for options that contradict each other.
    """
    whole = tuple(networks)
    if options.until and options.heads == "joint":
        raise UsageError("--until keeps what comes behind apart, --heads joint merges it; leave one of them out")
    if options.heads == "separate" or options.until:
        found = separate(whole, options.until)
        require_alike_quantised(found.trunks)
        return Parents(whole, found.trunks, found)
    try:
        paired = pair(whole)
        require_alike_quantised(paired)
        return Parents(whole, paired)
    except AdapterError:
        raise
    except StructureError as error:
        if options.heads == "joint" or options.export_for_training:
            raise
        cut = _with_other_heads(whole)
        if cut is None:
            raise
        if cut.share < MENTIONED:
            raise
        if cut.share < TRAILING:
            raise StructureError(
                f"{error}; they begin alike ({cut.share:.0%} of the layers): --heads separate merges that much"
            ) from error
        require_alike_quantised(cut.trunks)
        return Parents(whole, cut.trunks, cut)


def part_with_base(networks: Sequence[Network]) -> tuple[Parents, Base]:
    """Pair up networks of which the last is the one that the others were fine-tuned from: it is not merged."""
    paired = pair(networks)
    require_alike_quantised(paired)
    others, base = apart(paired)
    return Parents(tuple(networks[:-1]), others), base


def _with_other_heads(networks: Sequence[Network]) -> Separation | None:
    """Networks of which trailing parts differ, cut there; None for others."""
    try:
        return separate(networks)
    except StructureError:
        return None


def joined(
    parents: Parents, trunk: Network, weights: Mapping[str, NDArray[Any]], readings: Sequence[Reading]
) -> MergedModel:
    """The merged network: ``trunk`` with ``weights``, and behind it each parent's head where heads are apart."""
    if parents.separation is None:
        names = tuple(str(value.name) for value in trunk.graph.outputs)
        return MergedModel(trunk, weights, (names,) * len(parents.networks))
    found = assemble(parents.separation, trunk, readings)
    return MergedModel(found.network, Overlay(found.network.weights, weights), found.outputs, parents.separation)


def sample_for(parents: Parents, inputs: Mapping[str, SampleInput]) -> dict[str, NDArray[Any]] | None:
    """A sample that heads run on too, as far as known of ``inputs``; None where any that the template runs on does."""
    if inputs:
        return sample_from(parents.networks[0], inputs)
    return None if parents.separation is None else trace(parents.networks[0]).sample


def inputs_of(network: Network, sample: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A sample of the first model's inputs under the names that another gives them."""
    return {str(value.name): array for value, array in zip(network.graph.inputs, sample.values(), strict=True)}
