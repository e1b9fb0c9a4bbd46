"""How good a candidate merge is, found on calibration data that nothing else has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.calibration.chunks import rows
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.specs import fixed_batch, input_specs, is_batched
from onnxmerge.calibration.subset import Split, Spread, hold_out, holds
from onnxmerge.contracts import AUTO
from onnxmerge.errors import UsageError
from onnxmerge.merging.reconstruction import Answers, Reference, reference
from onnxmerge.model.lazy_weights import Overlay
from onnxmerge.model.network import ModelSet
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.options import MergeOptions
from onnxmerge.pipeline.selection.labelled import EvaluationTasks, LabelledEvaluation, labelled_evaluation
from onnxmerge.types import Arrays
from onnxmerge.units.zips import Matchings

REPAIR_SAMPLES = 256
"""Samples that a candidate's statistics are repaired on; the one that is chosen gets more."""

EVALUATION_SAMPLES = 128
"""Held-out samples that candidates are judged on, at most; agreement pools all units of a feature."""

PLENTY = 200
"""Samples of which a fifth is held out to choose the repair by; of fewer, a rule decides."""


def divide(source: CalibrationSource, models: ModelSet, options: MergeOptions, *, labelled: bool) -> Split | None:
    """Hold data out where something is to be judged by it (for repair alone, only of plenty); None where nothing is.

    Raises InputError where the data is a single sample.
    """
    must = options.searches or labelled
    if not must and (options.repair != AUTO or options.refinement is not None):
        return None
    return None if not must and not holds(source, PLENTY) else held_out(source, models)


def held_out(source: CalibrationSource, models: ModelSet) -> Split:
    """The source with a fifth of it held out. Raises InputError where it is a single sample."""
    specs = input_specs(models.template.model)
    return hold_out(source, divisible=is_batched(specs) and fixed_batch(specs) is None)


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """How a candidate did: agreement with its parents (``Reference.compare``), at most 1, and accuracy on the labels.

    There is no ``accuracy`` (None) without labels; with them it decides, and agreement only between equals. It is the
    mark of the ``LabelledEvaluation``: with regressions among the tasks, their scaled scores are part of it.
    """

    reconstruction: float
    accuracy: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """What is larger is better; what is not a number comes last."""
        parts = (0.0 if self.accuracy is None else self.accuracy, self.reconstruction)
        return parts if np.isfinite(parts).all() else (-np.inf, -np.inf)


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutEvaluator:
    """Runs a merged network on held-out data and compares it with its parents, or with the labels."""

    reference: Reference
    by_labels: LabelledEvaluation | None

    @property
    def criterion(self) -> str:
        """What decides."""
        return "reconstruction" if self.by_labels is None else self.by_labels.criterion

    @property
    def samples(self) -> int:
        """On how many samples."""
        return sum(map(rows, self.reference.feeds)) if self.by_labels is None else self.by_labels.samples

    def __call__(self, weights: Arrays, matchings: Matchings) -> CandidateScore:
        """Evaluate the network with merged ``weights``, in the units to which ``matchings`` led."""
        return self.each(weights, [{}], matchings)[0]

    def each(self, weights: Arrays, changes: Sequence[Arrays], matchings: Matchings) -> list[CandidateScore]:
        """Evaluate each of some ``changes`` to the weights; what none of them changes runs once for all."""
        found = self.reference.rows_of(weights, changes)
        agreed = [self.reference.compare(rows, matchings) for rows in found]
        if self.by_labels is None:
            return [CandidateScore(value) for value in agreed]
        marks = [self.by_labels(Overlay(weights, change), matchings) for change in changes]
        return [CandidateScore(*pair) for pair in zip(agreed, marks, strict=True)]


def in_brief(job: Job) -> Job:
    """The job on the few samples that a candidate's statistics are repaired on."""
    return job if job.source is None else job.on(Spread(job.source, REPAIR_SAMPLES))


def evaluator_on(job: Job, held: CalibrationSource, asked: EvaluationTasks | None = None) -> HeldOutEvaluator:
    """An evaluator by data ``held``, which must not be in ``job.source``; ``asked`` is what labels say of its samples.

    Runs the parents. Raises InputError where nothing can be compared, or the labels do not fit the outputs.
    """
    if job.source is None:
        raise UsageError("candidates are compared by activations: give calibration data (--calib)")
    feeds = list(Spread(held, EVALUATION_SAMPLES))
    found = reference(
        job.prepared.models, job.prepared.typing, feeds, job.options.provider, job.network, job.outputs.directions
    )
    return HeldOutEvaluator(found, None if asked is None else labelled_evaluation(job, held, asked))


@dataclass(slots=True, eq=False)
class HeldOutEvaluators:
    """Evaluators by the data that was held out, and by what is ``asked`` of it; without such data there are none.

    An evaluator runs the parents, so one serves all jobs that merge the same networks.
    """

    split: Split | None
    asked: EvaluationTasks | None = None
    _job: Job | None = None
    _evaluator: HeldOutEvaluator | None = None

    def __call__(self, job: Job) -> HeldOutEvaluator | None:
        """The evaluator of a job's candidates. Raises what ``evaluator_on`` raises."""
        if self.split is None:
            return None
        last = self._job
        if last is None or last.prepared is not job.prepared or last.network is not job.network:
            self._evaluator = evaluator_on(job, self.split.held, self.asked)
            self._job = job
        return self._evaluator

    @property
    def answers(self) -> Answers | None:
        """What the parents of the last job answered on the data that was held out."""
        return None if self._evaluator is None else self._evaluator.reference.answers
