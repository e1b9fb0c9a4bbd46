"""Which layers REPAIR corrects, and what their units should have: the parents' mean and standard deviation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import onnx_ir as ir

from onnxmerge.activations.moments import Moments
from onnxmerge.merging.combine import average
from onnxmerge.merging.repair.channels import channel_layout, measurable
from onnxmerge.model.linear_layers import LinearLayer, linear_layers
from onnxmerge.model.normalisation import normalises
from onnxmerge.types import Floats
from onnxmerge.units.layout import Typing
from onnxmerge.units.zips import Matchings

Which: TypeAlias = Literal["free", "fixed", "all"]


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """The layers that can be repaired, and why others are left alone."""

    layers: tuple[LinearLayer, ...]
    notes: tuple[str, ...]

    def without(self, tensors: Collection[str]) -> RepairPlan:
        """The plan that leaves the layers alone whose outputs are among ``tensors``."""
        return replace(self, layers=tuple(layer for layer in self.layers if layer.output not in tensors))


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What a layer's output should have: mean and standard deviation of each channel, float64 [channels]."""

    mean: Floats
    std: Floats


def plan_repair(graph: ir.Graph, typing: Typing, which: Which = "free") -> RepairPlan:
    """Find the layers to repair: those whose output units carry a free space, those whose units are fixed, or all.

    "free" is what BatchNorm does: with it, a network with BatchNorm folded ends up as the one with BatchNorm kept.
    "fixed" are the embedding or the logits at the end before all: their units are aligned by definition, their
    variance collapses like any other's while their bias keeps its size. What helps is found out on the models at hand
    (``selection.repairing``).
    """
    layers, notes = linear_layers(graph)
    chosen = [
        layer
        for layer in layers
        if layer.output in typing.activations and (which == "all" or _has_free(layer, typing) == (which == "free"))
    ]
    found, _, unmeasured = measurable(chosen, typing)
    return RepairPlan(found, (*notes, *unmeasured))


def applies(graph: ir.Graph, typing: Typing) -> bool:
    """Whether repair of free units is on unless the user says otherwise: where nothing else restores their statistics.

    Two signs together. No activation is normalised (see ``normalises``): with BatchNorm kept the exact remedy is to
    re-estimate its statistics, and layer, group and RMS norms restore the scale sample by sample themselves. And every
    layer with free units has a bias: that is how a network looks whose BatchNorm was folded away (its shift is kept
    there), and where there is none the mean cannot be set, so it would be half a repair. A plain ReLU network with
    biases looks the same, and its variance collapses in the same way.
    """
    layers = plan_repair(graph, typing).layers
    return bool(layers) and all(layer.bias is not None for layer in layers) and not normalises(graph)


def targets(
    plan: RepairPlan,
    typing: Typing,
    moments: Sequence[Mapping[str, Moments]],
    matchings: Matchings,
    *,
    shares: Sequence[float] | None = None,
) -> dict[str, Target]:
    """Each layer's target, by output tensor: the mean over parents, or over the members of a zipped unit.

    ``moments`` are those of each parent, by tensor; of a tensor that one of them lacks there is no target. ``shares``
    has one number for each parent (equal by default).
    """
    shares = [1 / len(moments)] * len(moments) if shares is None else shares
    found = {}
    for layer in plan.layers:
        if any(layer.output not in own for own in moments):
            continue
        channels = channel_layout(f"channels of {layer.output}", layer, typing)
        means, stds = (
            average([getattr(own[layer.output], part) for own in moments], channels, typing, matchings, shares)
            for part in ("mean", "std")
        )
        found[layer.output] = Target(means, stds)
    return found


def _has_free(layer: LinearLayer, typing: Typing) -> bool:
    return any(
        typing.spaces[name].free and typing.spaces[name].size > 1
        for block in typing.activations[layer.output].blocks
        for name in block.axes[layer.channel_axis].spaces
    )
