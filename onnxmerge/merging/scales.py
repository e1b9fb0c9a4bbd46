"""The scale of units behind which something normalises: one scale for BatchNorm kept and BatchNorm folded.

BatchNorm divides by the deviation of what a convolution gives, so the length of a unit's weights says nothing about
what the unit computes; folding BatchNorm multiplies each unit's weights by its own gamma / sigma. Either way the stored
lengths hide which units are alike, and in the plain mean the parent with the larger ones decides. What the unit
computes is seen behind the normalisation: a mean (beta) and a deviation (gamma), measured on the calibration data.

Here every such unit's weights get the deviation as their length. Then the exports of one network with BatchNorm kept
and folded are the same to matching and to averaging. The scaled models no longer compute what they did: use them where
the statistics are set anew afterwards, by re-estimating BatchNorm or by REPAIR.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxmerge.activations.statistics import MomentRequest, Statistics
from onnxmerge.merging.repair.channels import channel_layout, channel_moments, measurable
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.linear_layers import LinearLayer, initializer_of, linear_layers
from onnxmerge.model.network import ModelSet
from onnxmerge.types import Array, Floats
from onnxmerge.units.layout import Typing


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """Layers whose units have no scale of their own, and what to measure in the parents.

    The ``output`` of each layer is the tensor behind the normalisation; ``norms`` has gamma and beta of the layers that
    have one, by output. ``spent`` are initializers of which nothing is left to compare, for the deviation and the mean
    say it all: gammas, betas and the layers' own biases.
    """

    layers: tuple[LinearLayer, ...]
    requests: tuple[MomentRequest, ...]
    norms: Mapping[str, tuple[str, str]]
    spent: frozenset[str]

    def without(self, tensors: Collection[str]) -> ScalePlan:
        """The plan that leaves the layers alone whose outputs are among ``tensors``."""
        left = [pair for pair in zip(self.layers, self.requests, strict=True) if pair[0].output not in tensors]
        return replace(self, layers=tuple(layer for layer, _ in left), requests=tuple(request for _, request in left))


def plan_scales(graph: ir.Graph, typing: Typing, repaired: Sequence[LinearLayer]) -> ScalePlan:
    """The layers that BatchNorm follows with fixed statistics, and those of ``repaired``, in topological order.

    ``repaired`` are the hidden layers whose statistics are set anew because no normalisation does it.
    """
    outputs = {layer.output for layer in repaired}
    values = {value.name: value for node in graph for value in node.outputs}
    found, spent, norms = [], set[str](), dict[str, tuple[str, str]]()
    for layer in linear_layers(graph)[0]:
        layout = typing.activations.get(layer.output)
        norm = None if layout is None else _norm_behind(layer, values[layer.output], len(layout.shape))
        if norm is not None:
            found.append(replace(layer, output=str(norm.outputs[0].name)))
            gamma, beta = (str(each.name) for each in map(initializer_of, norm.inputs[1:3]) if each is not None)
            norms[found[-1].output] = gamma, beta
            spent.update((gamma, beta))
        elif layer.output in outputs:
            found.append(layer)
        else:
            continue
        if layer.bias is not None:
            spent.add(layer.bias)
    layers, requests, _ = measurable(found, typing)
    return ScalePlan(layers, requests, norms, frozenset(spent))


def comparable(
    models: ModelSet, typing: Typing, plan: ScalePlan, statistics: Statistics
) -> tuple[Sequence[Mapping[str, Array]], Typing]:
    """The models' weights as matching should see them, and the typing of these.

    The weights of each unit are as long as its output's deviation. What is spent is left out; in its place stands, for
    each layer, one more vector: the means of its units' outputs. Computed when read.
    """
    means = {f"mean of {layer.output}": layer for layer in plan.layers}
    layouts = {name: channel_layout(name, layer, typing) for name, layer in means.items()}
    views = []
    for model, weights in enumerate(models.weights):
        moments = _moments(typing, plan, statistics, model)
        changed = {
            layer.weight: _Rescaled(layer, _signs(layer, plan, weights) * std / _lengths(layer, weights))
            for layer, (_, std) in zip(plan.layers, moments, strict=True)
        }
        added = {name: mean for name, (mean, _) in zip(means, moments, strict=True)}
        views.append(_view(weights, changed, added))
    seen = replace(typing, initializers={**typing.initializers, **layouts}, statistics=typing.statistics | plan.spent)
    return views, seen


def balanced(models: ModelSet, typing: Typing, plan: ScalePlan, statistics: Statistics) -> ModelSet:
    """The models as averaging should see them: a unit's parents weigh in by their deviations.

    Each layer keeps its length overall (the geometric mean over units and models). Where BatchNorm is kept, gamma and
    beta are the deviation and the mean that were measured, as repair takes them where it was folded. Computed when
    read.
    """
    moments = [_moments(typing, plan, statistics, model) for model in range(len(models.weights))]
    changed: list[dict[str, _Rescaled]] = [{} for _ in models.weights]
    for index, layer in enumerate(plan.layers):
        factors = [
            _signs(layer, plan, weights) * each[index][1] / _lengths(layer, weights)
            for each, weights in zip(moments, models.weights, strict=True)
        ]
        live = np.abs(np.concatenate(factors))
        live = live[live > 0]
        common = float(np.exp(np.log(live).mean())) if live.size else 1.0
        for into, each in zip(changed, factors, strict=True):
            into[layer.weight] = _Rescaled(layer, each / common)
    views = [
        _view(weights, scaled, _affine(plan, found))
        for weights, scaled, found in zip(models.weights, changed, moments, strict=True)
    ]
    return replace(models, weights=tuple(views))


def _affine(plan: ScalePlan, moments: Sequence[tuple[Floats, Floats]]) -> dict[str, Floats]:
    """Gammas and betas by name: what was measured behind them, the mean of it where several norms share one."""
    found: dict[str, list[Floats]] = {}
    for layer, (mean, std) in zip(plan.layers, moments, strict=True):
        for name, vector in zip(plan.norms.get(layer.output, ()), (std, mean), strict=False):
            found.setdefault(name, []).append(vector)
    return {name: np.mean(several, axis=0) for name, several in found.items()}


@dataclass(frozen=True, slots=True)
class _Rescaled:
    """A weight of which each output unit is multiplied by its factor."""

    layer: LinearLayer
    factors: Floats

    def __call__(self, array: Array) -> Array:
        return self.layer.scale_weight(array, self.factors)


def _view(weights: Mapping[str, Array], changed: Mapping[str, _Rescaled], added: Mapping[str, Floats]) -> LazyWeights:
    def compute(name: str) -> Array:
        if name in added:
            return added[name].astype(weights[name].dtype) if name in weights else added[name]
        return changed[name](weights[name]) if name in changed else weights[name]

    return LazyWeights(dict.fromkeys((*weights, *added)), compute)


def _moments(typing: Typing, plan: ScalePlan, statistics: Statistics, model: int) -> list[tuple[Floats, Floats]]:
    """Mean and deviation of each channel of each layer's output in one model."""
    return [
        channel_moments(layer, request, typing, statistics, model)
        for layer, request in zip(plan.layers, plan.requests, strict=True)
    ]


def _signs(layer: LinearLayer, plan: ScalePlan, weights: Mapping[str, Array]) -> Floats:
    """-1 where a negative gamma turns the sign behind the layer (folding moves that into the weights), else 1."""
    norm = plan.norms.get(layer.output)
    return np.ones(layer.units) if norm is None else np.where(weights[norm[0]].astype(np.float64) < 0, -1.0, 1.0)


def _lengths(layer: LinearLayer, weights: Mapping[str, Array]) -> Floats:
    """Lengths of units; 1 for those without any weight, which no factor changes."""
    lengths = layer.unit_lengths(weights[layer.weight])
    return np.where(lengths > 0, lengths, 1.0)


def _norm_behind(layer: LinearLayer, value: ir.Value, rank: int) -> ir.Node | None:
    """The BatchNormalization with fixed statistics that alone reads the layer's output."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or layer.channel_axis not in (1, 1 - rank):
        return None
    node, index = uses[0]
    if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx") or index != 0:
        return None
    training = node.attributes.get("training_mode")
    fixed = all(initializer_of(each) is not None for each in node.inputs[1:5])
    return node if fixed and not (training is not None and training.as_int()) else None
