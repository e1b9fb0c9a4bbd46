"""All there is to look at of one merge.

Layers and outputs are compared with the parents' on samples that were held out where some were, and on those of the
calibration otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.matching.method import MatchResult
from onnxmerge.merging.answer.answer import Answered
from onnxmerge.pipeline.details.behaviour import LayerDrift, OutputAgreement, few_of, layer_drift, output_agreement
from onnxmerge.pipeline.details.weights import GroupDetails, WeightDetails, group_details, weight_details
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import Measurements
from onnxmerge.pipeline.separation import MergedModel, Parents
from onnxmerge.types import Arrays


@dataclass(frozen=True, slots=True, eq=False)
class MergeDetails:
    """All of it.

    ``layers`` and ``outputs`` are empty without data; ``samples`` are those that outputs were run on, ``few`` some of
    them, by the names of the merged model's inputs (empty without data).
    """

    groups: tuple[GroupDetails, ...]
    weights: tuple[WeightDetails, ...]
    layers: tuple[LayerDrift, ...]
    outputs: tuple[OutputAgreement, ...]
    samples: int
    held_out: bool
    few: Arrays


def details_of(
    job: Job,
    matched: MatchResult,
    measurements: Measurements,
    weights: Arrays,
    answers: Sequence[Answered],
    *,
    parents: Parents,
    product: MergedModel,
    held: CalibrationSource | None,
) -> MergeDetails:
    """Look at a merge whose trunk has these ``weights``. ``held`` is data that was held out, where some was.

    Raises InputError where the merged model does not run on the data.
    """
    data = job.source if held is None else held
    outputs, samples = ((), 0) if data is None else output_agreement(job, parents, product, data)
    return MergeDetails(
        group_details(job, matched, measurements, weights),
        tuple(weight_details(job, matched, weights, answers)),
        () if data is None else tuple(layer_drift(job, matched, weights, data)),
        outputs,
        samples,
        held is not None,
        {} if data is None else few_of(job, data),
    )
