"""The stage that finds the matching: by the method that was asked for, or by a search for the best one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnxmerge.calibration.subset import Split
from onnxmerge.matching.method import MatchResult
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import Measurements, match
from onnxmerge.pipeline.rotating import RotationResult, rotate
from onnxmerge.pipeline.selection.held_out import HeldOutEvaluators, in_brief
from onnxmerge.pipeline.selection.ingredients import SoupReport, choose_ingredients
from onnxmerge.pipeline.selection.labelled import EvaluationTasks
from onnxmerge.pipeline.selection.scaling import ScaleReport, choose_scale
from onnxmerge.pipeline.selection.search import SearchReport, search


@dataclass(frozen=True, slots=True, eq=False)
class SelectedMatching:
    """The job with the method, alpha and models (perhaps rotated) that were settled on, and their matching.

    ``scales`` and ``soup`` say how a scale was found, and which models are averaged.
    """

    job: Job
    measurements: Measurements
    matched: MatchResult
    search: SearchReport | None
    rotated: tuple[str, ...]
    scales: ScaleReport | None = None
    soup: SoupReport | None = None


def chosen_by(split: Split | None, asked: EvaluationTasks | None) -> HeldOutEvaluators:
    """Evaluators by the data that was held out. Raises InputError where what is ``asked`` does not fit it."""
    return HeldOutEvaluators(split, None if split is None or asked is None else asked.held_out(split))


def matched_by(job: Job, measurements: Measurements, evaluators: HeldOutEvaluators) -> SelectedMatching:
    """Match, after a search where method, alpha, scale or models are to be found, and rotate where asked for."""
    searched = None
    if job.options.searches and (evaluator := evaluators(job)) is not None:
        found = search(job, measurements, evaluator)
        job, matched, searched = found.job, found.matched, found.report
    else:
        matched = match(job, measurements)
    scales = None
    if job.options.searches_scale and (evaluator := evaluators(job)) is not None:
        how, scales = choose_scale(in_brief(job), evaluator)
        job = replace(job, options=how)
    soup = None
    if job.options.chooses_models and evaluators.split is not None and evaluators.asked is not None:
        ingredients, soup = choose_ingredients(in_brief(job), evaluators.split, evaluators.asked)
        job = replace(job, ingredients=ingredients)
    rotation = rotate(job, matched, measurements) if job.options.rotate else RotationResult(job, measurements, ())
    return SelectedMatching(rotation.job, rotation.measurements, matched, searched, rotation.spaces, scales, soup)
