"""Equal say for each parent in every unit whose statistics are repaired afterwards.

Folding BatchNorm into a convolution multiplies each unit's weights by its own gamma / sigma, which differ between
parents: in the plain mean the parent with the larger factor decides. REPAIR sets the scale of the unit anew, so only
the proportion of the parents' shares is left of it. Here each parent's weight vector of a unit is brought to the same
length (the geometric mean over parents) before they are averaged, which is what averaging the convolutions before
folding does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.axes.layout import Positions, Typing
from onnxmerge.merging.combine import LazyWeights, transported
from onnxmerge.merging.linear_layers import LinearLayer
from onnxmerge.merging.repair import RepairPlan
from onnxmerge.model.network import ModelSet

Array = NDArray[Any]


def balanced(
    models: ModelSet, typing: Typing, matchings: Sequence[Mapping[str, Positions]], plan: RepairPlan
) -> Mapping[str, Array]:
    """The mean weights of the layers of a plan, by name, with each unit's parents at equal length.

    ``matchings`` has one entry for each model but the first. Units that are zero in any parent are averaged as they
    are. Computed when read.
    """
    aligned = [transported(w, typing, p) for w, p in zip(models.weights, [{}, *matchings], strict=True)]
    layers = {layer.weight: layer for layer in plan.layers}
    return LazyWeights(layers, lambda name: _mean(layers[name], [weights[name] for weights in aligned]))


def _mean(layer: LinearLayer, parents: Sequence[Array]) -> Array:
    wide = [np.asarray(parent, np.float64) for parent in parents]
    lengths = np.stack([layer.unit_lengths(parent) for parent in wide])
    live = (lengths > 0).all(axis=0)
    logs = np.log(np.where(live, lengths, 1.0))
    factors = np.exp(logs.mean(axis=0) - logs)
    total = sum(layer.scale_weight(parent, factor) for parent, factor in zip(wide, factors, strict=True))
    return np.asarray(total / len(wide)).astype(parents[0].dtype)
