"""What became of the linear layers of a merge: which were solved or averaged, and where it departs from its parents.

Both are found on every merge that has data, so on a few samples, and of the layers' own weights alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.matching.method import MatchResult
from onnxmerge.merging.answer.answer import Answered
from onnxmerge.merging.closed_form.targets import plan_layers
from onnxmerge.model.linear_layers import linear_layers
from onnxmerge.pipeline.details.behaviour import LayerDrift, layer_drift, values_of
from onnxmerge.pipeline.details.weights import Done, weight_details
from onnxmerge.pipeline.job import Job
from onnxmerge.types import Arrays

DEPARTS = 0.5
"""A layer departs from the parents where it is this far from their mean, relative to that."""

SAMPLES = 8
"""On which that is looked at, at most."""

MOST = 1 << 25
"""Values of all layers' outputs of one network that are held for that at once, at most."""


@dataclass(frozen=True, slots=True)
class LayerDone:
    """What was done to the weight of a layer, by the name of its node."""

    node: str
    done: Done


@dataclass(frozen=True, slots=True)
class LayersReport:
    """``layers`` in topological order; ``departs`` is the first that departs from the parents (None: none does).

    ``compared``: layers were compared with the parents', which those of the largest activations are not.
    """

    layers: tuple[LayerDone, ...]
    departs: LayerDrift | None
    compared: bool = True

    def nodes(self, done: Done) -> tuple[str, ...]:
        """The layers to which this was done."""
        return tuple(layer.node for layer in self.layers if layer.done == done)


def layers_report(
    job: Job, matched: MatchResult, weights: Arrays, answers: Sequence[Answered], data: CalibrationSource
) -> LayersReport:
    """Look at the layers of a merge whose trunk has these ``weights``. Raises InputError where it does not run."""
    found = linear_layers(job.prepared.models.template.graph)[0]
    names = {layer.weight for layer in found}
    done = {each.name: each.done for each in weight_details(job, matched, weights, answers, names)}
    layers = tuple(LayerDone(layer.node or layer.output, done[layer.weight]) for layer in found if layer.weight in done)
    if values_of(job, plan_layers(job.prepared.models.template.graph, job.prepared.typing)[0]) > MOST:
        return LayersReport(layers, None, compared=False)
    return LayersReport(layers, departing(layer_drift(job, matched, weights, data, SAMPLES)))


def departing(drifts: Iterable[LayerDrift]) -> LayerDrift | None:
    """The first layer that is DEPARTS from the parents' mean, or further; None where none is."""
    return next((each for each in drifts if each.mean >= DEPARTS), None)
