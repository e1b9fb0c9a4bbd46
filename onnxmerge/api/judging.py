"""How good a candidate merge is, found on calibration data that nothing else has seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.api.job import Job
from onnxmerge.api.matching import Weights
from onnxmerge.api.options import MergeOptions
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.specs import fixed_batch, input_specs, is_batched
from onnxmerge.calibration.subset import FirstSamples, Split, Spread, hold_out, rows
from onnxmerge.errors import InputError, UsageError
from onnxmerge.evaluation.metrics import hits
from onnxmerge.evaluation.task import ABSENT
from onnxmerge.merging.batches import each
from onnxmerge.merging.combine import Matchings
from onnxmerge.merging.reconstruction import Reference, Rows, reference
from onnxmerge.model.network import ModelSet

REPAIR_SAMPLES = 256
"""Samples that a candidate's statistics are repaired on; the one that is chosen gets more."""

EVALUATION_SAMPLES = 256
"""Held-out samples that candidates are judged on, at most; agreement pools all units of a feature."""

LABELLED_SAMPLES = 1024
"""As many where labels decide: a sample then tells no more than right or wrong."""

PLENTY = 200
"""Samples of which a fifth is held out to choose the repair by; of fewer, a rule decides."""


def divide(source: CalibrationSource, models: ModelSet, options: MergeOptions, *, labelled: bool) -> Split | None:
    """Hold data out where something is to be judged by it (for repair alone, only of plenty); None where nothing is.

    Raises InputError where the data is a single sample.
    """
    must = options.searches or labelled
    if not must and (options.repair != "auto" or options.refines):
        return None
    if not must and sum(map(rows, each(FirstSamples(source, PLENTY)))) < PLENTY:
        return None
    specs = input_specs(models.template.model)
    return hold_out(source, divisible=is_batched(specs) and fixed_batch(specs) is None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a candidate did: agreement with its parents (``Reference.compare``), at most 1, and accuracy on the labels.

    There is no ``accuracy`` (None) without labels; with them it decides, and agreement only between equals.
    """

    reconstruction: float
    accuracy: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """What is larger is better; what is not a number comes last."""
        parts = (0.0 if self.accuracy is None else self.accuracy, self.reconstruction)
        return parts if np.isfinite(parts).all() else (-np.inf, -np.inf)


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Runs a merged network on held-out data and compares it with its parents, or with the labels."""

    reference: Reference
    labels: Labels | None
    samples: int

    @property
    def criterion(self) -> str:
        """What decides."""
        return "reconstruction" if self.labels is None else "accuracy"

    def __call__(self, weights: Weights, matchings: Matchings) -> Verdict:
        """Judge the network with merged ``weights``, in the units to which ``matchings`` led."""
        found = self.reference.rows_of(weights)
        agreed = self.reference.compare(found, matchings)
        return Verdict(agreed, None if self.labels is None else _accuracy(found[self.reference.answer], self.labels))


def in_brief(job: Job) -> Job:
    """The job on the few samples that a candidate's statistics are repaired on."""
    return job if job.source is None else replace(job, source=Spread(job.source, REPAIR_SAMPLES))


Labels: TypeAlias = NDArray[np.int64]
"""The right column for each sample; -1 where a sample has no label."""
Judges: TypeAlias = Callable[[Job], Judge | None]
"""What judges candidates of a job; None where no data is held out."""


def judge_on(job: Job, held: CalibrationSource, labels: Labels | None = None) -> Judge:
    """A judge by the data ``held``, which must not be in ``job.source``; ``labels`` are the classes of its samples.

    Runs the parents. Raises InputError where nothing can be compared, or the labels do not fit the outputs.
    """
    if job.source is None:
        raise UsageError("candidates are compared by activations: give calibration data (--calib)")
    models = job.prepared.models
    data = Spread(held, EVALUATION_SAMPLES if labels is None else LABELLED_SAMPLES)
    feeds, places = [], []
    for feed in each(data):
        feeds.append(feed)
        places.append(np.arange(data.passed - rows(feed), data.passed))
    found = reference(models, job.prepared.typing, feeds, job.options.provider, job.network)
    samples = sum(map(rows, feeds))
    if labels is not None:
        labels = labels[np.concatenate(places)]
        _require_classes(found.rows[0].get(found.answer), labels, models.template.label)
    return Judge(found, labels, samples)


def _accuracy(outputs: Rows, labels: Labels) -> float:
    """The share of labelled rows [samples, classes] whose largest value is at the label."""
    known = labels != ABSENT
    return hits(outputs[known], labels[known], (1,)).rates[0]


def _require_classes(outputs: Rows | None, labels: Labels, label: str) -> None:
    """Raise InputError unless ``outputs`` [samples, classes] can be judged by ``labels``."""
    if outputs is None or outputs.shape[0] != len(labels):
        raise InputError(f"{label}: labels need a first output of one row for each sample; leave --labels out")
    if labels.max(initial=ABSENT) >= outputs.shape[1]:
        raise InputError(f"{label}: its first output has {outputs.shape[1]} classes, but a label is {labels.max()}")
    if (labels == ABSENT).all():
        raise InputError(f"{label}: none of the {len(labels)} held-out samples has a label")
