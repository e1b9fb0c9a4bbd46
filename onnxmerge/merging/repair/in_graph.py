"""REPAIR in a running network: what a layer's units have there, and what they should have, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.activations.editor import GraphEditor
from onnxmerge.activations.moments import Moments, Probe, levels, measure
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.merging.repair.plan import RepairPlan, Target
from onnxmerge.merging.repair.repairs import Repair
from onnxmerge.model.linear_layers import LinearLayer
from onnxmerge.types import Arrays
from onnxmerge.units.layout import Typing

DEAD = 1e-4
"""A unit that varies less than this share of its target is constant up to rounding; it is shifted, not blown up.
So is one that is constant in all parents, not shrunk to nothing: on other data it may not be."""


def probe_of(graph: ir.Graph, layer: LinearLayer, typing: Typing) -> Probe:
    """What to measure of a layer: its output, along its channels."""
    dtype = graph.initializers[layer.weight].dtype or ir.DataType.FLOAT
    return Probe(layer.output, layer.channel_axis, len(typing.activations[layer.output].shape), dtype)


def independent_moments(
    model: ir.Model, typing: Typing, weights: Arrays, plan: RepairPlan, source: CalibrationSource, provider: str
) -> dict[str, Moments] | None:
    """The moments of all layers of a plan, which serve every mode; None where repairing one layer changes another."""
    probes = [probe_of(model.graph, layer, typing) for layer in plan.layers]
    if len(levels(model.graph, probes)) > 1:
        return None
    return measure(model, weights, probes, source, provider=provider) if probes else {}


def use_target(
    editor: GraphEditor,
    probe: Probe,
    layer: LinearLayer,
    mode: Repair,
    measured: tuple[ir.Value, ir.Value, ir.Value],
) -> None:
    """Let all that reads the layer's output see (y - m)/s s* + m* (as ``mode`` says), with m and s the batch's own.

    So are m* and s*, which come with the batch (``aims_beside``): then what fits the parents' moments in every batch
    stays as it is, though a batch's moments are not those of all data.
    """
    centred, mean, variance = measured
    value = editor.values[probe.tensor]
    inserted = {centred.producer()} | {user for user, _ in value.uses() if (user.name or "").startswith("onnxmerge::")}
    readers = [(user, index) for user, index in value.uses() if user not in inserted]
    sizes = [1] * probe.rank
    sizes[probe.channel] = layer.units
    aimed, aimed_std, floor, still = (
        editor.input(_beside(kind, probe.tensor), probe.wide, sizes) for kind in ("mean", "std", "floor", "still")
    )
    if not mode.std:
        result = editor.apply("Add", centred, aimed)
    else:
        std = editor.apply("Max", editor.apply("Sqrt", variance), floor)
        # A target of 0 gives the factor 0, for which it is to be 1.
        factors = editor.apply("Add", editor.apply("Div", aimed_std, std), still)
        kept = mean if layer.bias is not None else editor.apply("Mul", mean, factors)
        shifted = mode.mean and layer.bias is not None
        result = editor.apply("Add", editor.apply("Mul", centred, factors), aimed if shifted else kept)
    if probe.dtype != probe.wide:
        result = editor.cast(result, probe.dtype)
    for user, index in readers:
        user.replace_input_with(index, result)


def aims_beside(probes: Sequence[Probe], aims: Mapping[str, Target], default: Mapping[str, Target]) -> Arrays:
    """What ``use_target`` wants with a batch: the targets of each probe's tensor, or else the ``default`` ones."""
    found: dict[str, NDArray[Any]] = {}
    for probe in probes:
        aim = aims.get(probe.tensor, default[probe.tensor])
        shape = [1] * probe.rank
        shape[probe.channel] = -1
        floor = np.maximum(DEAD * aim.std, np.finfo(np.float32).tiny)
        for kind, array in (("mean", aim.mean), ("std", aim.std), ("floor", floor), ("still", aim.std == 0)):
            found[_beside(kind, probe.tensor)] = array.reshape(shape).astype(probe.wide.numpy())
    return found


def _beside(kind: str, tensor: str) -> str:
    return f"onnxmerge::{kind} of {tensor}"
