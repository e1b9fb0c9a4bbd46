"""A layer as least squares sees it, with its BatchNormalization, and what was solved as initializers of the file."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.activations.moments import Moments
from onnxmerge.merging.closed_form.norms import Norm
from onnxmerge.merging.closed_form.solution import Solution
from onnxmerge.merging.closed_form.targets import LayerTarget, Settling
from onnxmerge.types import Arrays, Floats


def matrix(target: LayerTarget, current: Arrays) -> Floats:
    """The layer's weight as it is [groups, u, d], with the scale of its BatchNormalization."""
    weight = target.form.matrix(current[target.layer.weight])
    norm = target.norm
    if norm is None:
        return weight
    gain = _wide(current, norm.scale) / np.sqrt(_wide(current, norm.variance) + norm.epsilon)
    return weight * gain.reshape(weight.shape[:2])[:, :, None]


def encoded(target: LayerTarget, current: Arrays, solution: Solution) -> dict[str, NDArray[Any]]:
    """The initializers that make the layer (with its BatchNormalization) compute the solution, in their own types."""
    if target.norm is not None:
        return _encoded_with_norm(target, target.norm, current, solution)
    return encoded_plainly(target, current, solution)


def encoded_plainly(target: LayerTarget, current: Arrays, solution: Solution) -> dict[str, NDArray[Any]]:
    """The initializers that make the layer's own operator compute the solution, in their own types."""
    layer = target.layer
    found = {layer.weight: target.form.weight(solution.weight, current[layer.weight])}
    if layer.bias is not None:
        like = current[layer.bias]
        found[layer.bias] = (solution.bias / layer.bias_scale).reshape(like.shape).astype(like.dtype)
    return found


def _encoded_with_norm(target: LayerTarget, norm: Norm, current: Arrays, solution: Solution) -> dict[str, NDArray[Any]]:
    """Each unit's weight keeps its length; the statistics are those the layer has now, scale and shift do the rest.

    Where the shift is shared the mean does its part instead.
    """
    layer, old = target.layer, current[target.layer.weight]
    lengths, before = (np.linalg.norm(each, axis=-1) for each in (solution.weight, target.form.matrix(old)))
    factor = np.where((lengths > 0) & (before > 0), before / np.where(lengths > 0, lengths, 1.0), 1.0)
    weight = solution.weight * factor[:, :, None]
    own = 0.0 if layer.bias is None else _wide(current, layer.bias).reshape(factor.shape) * layer.bias_scale
    mean, variance = solution.mean * factor + own, solution.variance * factor**2
    values = {
        norm.scale: np.sqrt(variance + norm.epsilon) / factor,
        norm.variance: variance,
    }
    if norm.shared:
        values[norm.mean] = own + (_wide(current, norm.bias).reshape(factor.shape) - solution.bias) * factor
    else:
        values |= {norm.mean: mean, norm.bias: solution.bias + (mean - own) / factor}
    found = {layer.weight: target.form.weight(weight, old)}
    for name, value in values.items():
        found[name] = value.reshape(current[name].shape).astype(current[name].dtype)
    return found


def settled(step: Settling, current: Arrays, found: Moments) -> dict[str, NDArray[Any]]:
    """The statistics of a BatchNormalization that stands by itself, in their own types."""
    return {
        name: array.astype(current[name].dtype)
        for name, array in ((step.norm.mean, found.mean), (step.norm.variance, found.variance))
    }


def _wide(current: Arrays, name: str) -> Floats:
    return np.asarray(current[name], np.float64)
