"""Scales that folding BatchNorm leaves in the weights, undone for comparing and for averaging.

Folding multiplies each unit's weights by its own gamma / sigma. In weight space that hides which units are alike, and
in the plain mean the parent with the larger factor decides. Where all layers are repaired afterwards (REPAIR) the scale
of a unit is set anew, so only the proportions matter before: units are compared at one length (``unfolded``), and
averaged with their parents at equal length (``balanced``), as convolutions are before BatchNorm is folded into them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.axes.layout import Positions, Typing
from onnxmerge.merging.combine import LazyWeights, shares_of, transported
from onnxmerge.merging.linear_layers import LinearLayer
from onnxmerge.model.network import ModelSet

Array = NDArray[Any]
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Scaled:
    """One layer of one model and the factor of each of its units."""

    layer: LinearLayer
    factors: Vector

    def apply(self, name: str, array: Array) -> Array:
        if name == self.layer.weight:
            return self.layer.scale_weight(array, self.factors)
        still = np.zeros_like(self.factors)
        return self.layer.move_bias(array, self.factors, still, still)


def unfolded(models: ModelSet, layers: Sequence[LinearLayer]) -> ModelSet:
    """The models with the units of each layer at one length, the geometric mean over units and models.

    Weights and biases are scaled alike, when read. Units without any weight stay as they are. The models no longer
    compute what they did: use them to compare, where the statistics of ``layers`` are repaired.
    """
    scaled: list[dict[str, _Scaled]] = [{} for _ in models.weights]
    for layer in layers:
        for found, factors in zip(scaled, _factors(layer, models.weights), strict=True):
            for name in (layer.weight, layer.bias):
                if name is not None:
                    found[name] = _Scaled(layer, factors)
    return replace(models, weights=tuple(map(_view, models.weights, scaled)))


def _factors(layer: LinearLayer, weights: Sequence[Mapping[str, Array]]) -> list[Vector]:
    lengths = [layer.unit_lengths(each[layer.weight]) for each in weights]
    live = np.concatenate(lengths)
    live = live[live > 0]
    common = float(np.exp(np.log(live).mean())) if live.size else 1.0
    return [np.divide(common, each, out=np.ones_like(each), where=each > 0) for each in lengths]


def _view(weights: Mapping[str, Array], scaled: Mapping[str, _Scaled]) -> LazyWeights:
    return LazyWeights(
        weights, lambda name: scaled[name].apply(name, weights[name]) if name in scaled else weights[name]
    )


def balanced(
    models: ModelSet,
    typing: Typing,
    matchings: Sequence[Mapping[str, Positions]],
    hidden: Sequence[LinearLayer],
    *,
    shares: Sequence[float] | None = None,
) -> Mapping[str, Array]:
    """The mean weights of ``hidden`` layers, by name, with each unit's parents at equal length.

    ``matchings`` has one entry for each model but the first, ``shares`` one for each (equal by default). Units that
    are zero in any parent are averaged as they are. Computed when read.
    """
    aligned = [transported(w, typing, p) for w, p in zip(models.weights, [{}, *matchings], strict=True)]
    layers = {layer.weight: layer for layer in hidden}
    each = shares_of(shares, len(aligned))
    return LazyWeights(layers, lambda name: _mean(layers[name], [weights[name] for weights in aligned], each))


def _mean(layer: LinearLayer, parents: Sequence[Array], shares: Sequence[float]) -> Array:
    wide = [np.asarray(parent, np.float64) for parent in parents]
    lengths = np.stack([layer.unit_lengths(parent) for parent in wide])
    live = (lengths > 0).all(axis=0)
    logs = np.log(np.where(live, lengths, 1.0))
    factors = np.exp(np.average(logs, axis=0, weights=shares) - logs)
    scaled = [layer.scale_weight(parent, factor) for parent, factor in zip(wide, factors, strict=True)]
    return np.asarray(np.average(scaled, axis=0, weights=shares)).astype(parents[0].dtype)
