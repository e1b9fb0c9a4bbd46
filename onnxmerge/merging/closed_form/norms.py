"""BatchNormalizations as least squares sees them: a scale, a shift and statistics that are a layer's to set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxmerge.model.linear_layers import initializer_of


@dataclass(frozen=True, slots=True)
class Norm:
    """A BatchNormalization with a scale and statistics of its own: its initializers' names, and its epsilon.

    ``shared``: others read its bias too. Two whose outputs are added learn the same one, which exporters store once.
    """

    scale: str
    bias: str
    mean: str
    variance: str
    epsilon: float
    shared: bool = False


def norm_of(node: ir.Node, counts: Mapping[str, int]) -> Norm | None:
    """The initializers of a BatchNormalization; None where others read them too, or it takes the batch's moments."""
    training = node.attributes.get("training_mode")
    own = [initializer_of(value) for value in node.inputs[1:5]]
    names = [str(value.name) for value in own if value is not None]
    if (training is not None and training.as_int()) or len(set(names)) < 4:
        return None
    scale, bias, mean, variance = names
    if any(counts[name] > 1 for name in (scale, mean, variance)):
        return None
    epsilon = node.attributes.get("epsilon")
    shared = counts[bias] > 1
    return Norm(scale, bias, mean, variance, 1e-5 if epsilon is None else epsilon.as_float(), shared)
