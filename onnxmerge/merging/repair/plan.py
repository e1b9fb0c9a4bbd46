"""Which layers REPAIR corrects, and what their units should have: the parents' mean and standard deviation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import onnx_ir as ir

from onnxmerge.axes.layout import Typing
from onnxmerge.calibration.statistics import MomentRequest, Statistics
from onnxmerge.merging.combine import Matchings, average
from onnxmerge.merging.layers.linear_layers import LinearLayer, linear_layers
from onnxmerge.merging.layers.normalisation import normalises
from onnxmerge.merging.repair.channels import Vector, channel_layout, channel_moments, measurable
from onnxmerge.merging.zip_transport import Zipped

Which: TypeAlias = Literal["free", "fixed", "all"]


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """The layers that can be repaired, what must be measured in the parents for it, and why others are left alone."""

    layers: tuple[LinearLayer, ...]
    requests: tuple[MomentRequest, ...]
    notes: tuple[str, ...]

    def without(self, tensors: Collection[str]) -> RepairPlan:
        """The plan that leaves the layers alone whose outputs are among ``tensors``."""
        left = [pair for pair in zip(self.layers, self.requests, strict=True) if pair[0].output not in tensors]
        return replace(self, layers=tuple(layer for layer, _ in left), requests=tuple(request for _, request in left))


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What a layer's output should have: mean and standard deviation of each channel, float64 [channels]."""

    mean: Vector
    std: Vector


def plan_repair(graph: ir.Graph, typing: Typing, which: Which = "free") -> RepairPlan:
    """Find the layers to repair: those whose output units carry a free space, those whose units are fixed, or all.

    "free" is what BatchNorm does: with it, a network with BatchNorm folded ends up as the one with BatchNorm kept.
    "fixed" are the embedding or the logits at the end before all: their units are aligned by definition, their
    variance collapses like any other's while their bias keeps its size. What helps is found out on the models at hand
    (``api.repairing``).
    """
    layers, notes = linear_layers(graph)
    chosen = [
        layer
        for layer in layers
        if layer.output in typing.activations and (which == "all" or _has_free(layer, typing) == (which == "free"))
    ]
    found, requests, unmeasured = measurable(chosen, typing)
    return RepairPlan(found, requests, (*notes, *unmeasured))


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
    statistics: Statistics,
    matchings: Matchings,
    *,
    shares: Sequence[float] | None = None,
) -> dict[str, Target]:
    """Each layer's target, by output tensor: the mean over parents, or over the members of a zipped unit.

    ``statistics`` must answer ``plan.requests`` for every parent; ``shares`` has one number for each parent (equal by
    default).
    """
    count = len(matchings.models) if isinstance(matchings, Zipped) else len(matchings) + 1
    shares = [1 / count] * count if shares is None else shares
    found = {}
    for layer, request in zip(plan.layers, plan.requests, strict=True):
        channels = channel_layout(f"channels of {layer.output}", layer, typing)
        parents = [channel_moments(layer, request, typing, statistics, model) for model in range(count)]
        means, stds = ([each[part] for each in parents] for part in (0, 1))
        found[layer.output] = Target(
            average(means, channels, typing, matchings, shares), average(stds, channels, typing, matchings, shares)
        )
    return found


def _has_free(layer: LinearLayer, typing: Typing) -> bool:
    return any(
        typing.spaces[name].free and typing.spaces[name].size > 1
        for block in typing.activations[layer.output].blocks
        for name in block.axes[layer.channel_axis].spaces
    )
