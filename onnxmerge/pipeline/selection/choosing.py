"""The stage that finds the matching: by the method that was asked for, or by a search for the best one."""

from __future__ import annotations

from dataclasses import dataclass

from onnxmerge.calibration.subset import Split
from onnxmerge.matching.method import MatchResult
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import Evidence, match
from onnxmerge.pipeline.rotating import Turned, turn
from onnxmerge.pipeline.selection.examining import Questions
from onnxmerge.pipeline.selection.judging import Judges
from onnxmerge.pipeline.selection.search import SearchReport, search


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The job with the method, alpha and models (perhaps rotated) that were settled on, and their matching."""

    job: Job
    evidence: Evidence
    matched: MatchResult
    search: SearchReport | None
    rotated: tuple[str, ...]


def chosen_by(split: Split | None, asked: Questions | None) -> Judges:
    """Judges by the data that was held out. Raises InputError where what is ``asked`` does not fit it."""
    return Judges(split, None if split is None or asked is None else asked.held_out(split))


def matched_by(job: Job, evidence: Evidence, judges: Judges) -> Chosen:
    """Match, after a search where method or alpha are to be found, and rotate where that was asked for."""
    searched = None
    if job.options.searches and (judge := judges(job)) is not None:
        found = search(job, evidence, judge)
        job, matched, searched = found.job, found.matched, found.report
    else:
        matched = match(job, evidence)
    turned = turn(job, matched, evidence) if job.options.rotate else Turned(job, evidence, ())
    return Chosen(turned.job, turned.evidence, matched, searched, turned.spaces)
