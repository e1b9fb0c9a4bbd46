"""Give every merged unit the mean and standard deviation that its parents have, where no BatchNorm can do it.

Averaging units that are not perfectly correlated shrinks their variance, layer after layer (variance collapse). REPAIR
(Jordan et al., ICLR 2023, arXiv 2211.08403) rescales and shifts each merged unit, before its nonlinearity and before a
residual Add, to

    mean m* = the mean over aligned parents of their means,     s* = the mean of their standard deviations,

by its own weights: w *= s*/s, b = (b - m) s*/s + m*, with m and s the merged network's on a prefix already repaired.
RESCALE changes the standard deviation alone: b = (b - m) s*/s + m. Bias-only changes the mean alone: b = b - m + m*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.activations.editor import GraphEditor
from onnxmerge.activations.moments import Moments, Probe, settle
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.merging.repair.in_graph import DEAD, aims_beside, probe_of, use_target
from onnxmerge.merging.repair.plan import RepairPlan, Target
from onnxmerge.merging.repair.repairs import REPAIRS, Repair
from onnxmerge.model.linear_layers import LinearLayer
from onnxmerge.types import Arrays
from onnxmerge.units.layout import Typing


def repair(
    model: ir.Model,
    typing: Typing,
    weights: Arrays,
    plan: RepairPlan,
    aims: Mapping[str, Target],
    source: CalibrationSource,
    *,
    mode: Repair = REPAIRS["repair"],
    batches: Sequence[Mapping[str, Target]] | None = None,
    provider: str = "cpu",
    known: Mapping[str, Moments] | None = None,
    measured: dict[str, Moments] | None = None,
) -> dict[str, NDArray[Any]]:
    """The weights and biases that give the merged network's units their targets, by name, in their stored types.

    ``aims`` are their targets over all data, ``batches`` those in each of the ``measured_batches`` (everywhere ``aims``
    by default). ``known`` are moments that were already taken (``independent_moments``, or what ``measured`` was filled
    with by a repair like this one); then nothing is run.

    A layer without a bias gets no mean: ``mode`` sets its standard deviations, or leaves it as it is. Raises InputError
    where the source is empty or activations are not finite.
    """
    movable = [layer for layer in plan.layers if mode.std or layer.bias is not None]
    layers = {layer.output: layer for layer in movable if layer.output in aims}

    def rewrite(editor: GraphEditor, probe: Probe, centred: ir.Value, mean: ir.Value, variance: ir.Value) -> None:
        use_target(editor, probe, layers[probe.tensor], mode, (centred, mean, variance))

    def fold(current: Arrays, moments: Mapping[str, Moments]) -> dict[str, NDArray[Any]]:
        changed = {}
        if measured is not None:
            measured.update(moments)
        for tensor, own in moments.items():
            changed.update(corrected(layers[tensor], current, own, aims[tensor], mode))
        return changed

    if known is not None:
        return fold(weights, {tensor: known[tensor] for tensor in layers})
    probes = [probe_of(model.graph, layer, typing) for layer in layers.values()]
    if not probes:
        return {}
    beside = (aims_beside(probes, own, aims) for own in (repeat(aims) if batches is None else batches))
    return settle(model, weights, probes, source, rewrite=rewrite, fold=fold, beside=beside, provider=provider)


def corrected(layer: LinearLayer, current: Arrays, own: Moments, aim: Target, mode: Repair) -> dict[str, NDArray[Any]]:
    """One layer's weight and bias for which its output, which now has the moments ``own``, has those of ``aim``."""
    dead = (own.std <= DEAD * aim.std) | (aim.std == 0)
    scaled = np.where(dead, 1.0, aim.std / np.where(dead, 1.0, own.std))
    factors = scaled if mode.std else np.ones_like(scaled)
    found = {layer.weight: layer.scale_weight(current[layer.weight], factors)}
    if layer.bias is not None:
        aimed = aim.mean if mode.mean else own.mean
        found[layer.bias] = layer.move_bias(current[layer.bias], factors, own.mean, aimed)
    return found
