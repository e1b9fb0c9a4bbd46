"""Re-estimate the running statistics of BatchNormalization through a merged network.

Averaging shrinks and shifts activations, so the parents' running means and variances are wrong for the merged
network; its own, measured on calibration data, restore every normalised channel. Known as resetting BatchNorm
statistics: Jordan et al., REPAIR (ICLR 2023, arXiv 2211.08403), section 3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.activations.editor import GraphEditor
from onnxmerge.activations.moments import Moments, Probe, settle
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.model.linear_layers import initializer_of
from onnxmerge.model.normalisation import batchnorms
from onnxmerge.types import Arrays
from onnxmerge.units.layout import Typing


def reestimate(
    model: ir.Model,
    typing: Typing,
    weights: Arrays,
    source: CalibrationSource,
    alike: Collection[str] = (),
    *,
    provider: str = "cpu",
) -> dict[str, NDArray[Any]]:
    """The running means and (population) variances that the network with ``weights`` has on the calibration data.

    Returns the initializers that change, by name, in their stored type; nothing where all outputs are ``alike``.
    Statistics shared by several nodes become those of all their inputs together. Raises InputError where the source
    is empty or activations are not finite.
    """
    norms = batchnorms(model.graph, alike)
    probes = {
        norm.tensor: Probe(norm.tensor, 1, len(typing.activations[norm.tensor].shape), norm.dtype) for norm in norms
    }
    if not probes:
        return {}

    def fold(current: Arrays, moments: Mapping[str, Moments]) -> dict[str, NDArray[Any]]:
        pooled: dict[str, Moments] = {}
        for norm in norms:
            if norm.tensor in moments:
                own = moments[norm.tensor]
                pooled[norm.mean] = pooled[norm.mean] + own if norm.mean in pooled else own
        return {
            name: array.reshape(current[name].shape).astype(current[name].dtype)
            for norm in norms
            if norm.mean in pooled
            for name, array in ((norm.mean, pooled[norm.mean].mean), (norm.variance, pooled[norm.mean].variance))
        }

    return settle(model, weights, list(probes.values()), source, rewrite=_use_batch, fold=fold, provider=provider)


def _use_batch(editor: GraphEditor, probe: Probe, _centred: ir.Value, mean: ir.Value, variance: ir.Value) -> None:
    """Feed the batch's own statistics to every BatchNormalization of the tensor."""
    shape = editor.constant(np.array([-1], np.int64))
    flat = [editor.apply("Reshape", value, shape) for value in (mean, variance)]
    for node, index in list(editor.values[probe.tensor].uses()):
        if node.op_type != "BatchNormalization" or index != 0:
            continue
        for place, value in zip((3, 4), flat, strict=True):
            stored = initializer_of(node.inputs[place])
            if stored is None:
                continue
            dtype = stored.dtype or probe.wide
            node.replace_input_with(place, value if dtype == probe.wide else editor.cast(value, dtype))
