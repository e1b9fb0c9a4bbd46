"""Merges that are tried: done on some of the calibration data, and judged by what they answer to samples held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias, TypeVar

import numpy as np

from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.subset import Split, Spread, cuts
from onnxmerge.errors import InputError
from onnxmerge.executor import Work
from onnxmerge.merging.answer.answer import agreement, reading_of
from onnxmerge.merging.answer.last_layer import Answers, LastLayer, ParentAnswers, answers_of
from onnxmerge.merging.answer.meaning import OutputMeaning
from onnxmerge.merging.repair.choice import repair_step
from onnxmerge.pipeline.answering import answered, answered_together, asked_parents, solved_layers, solved_on
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import Measurements, match, measured
from onnxmerge.pipeline.options import Effort, MergeOptions
from onnxmerge.pipeline.restoring import merged
from onnxmerge.pipeline.selection.held_out import HeldOutEvaluator
from onnxmerge.types import Arrays
from onnxmerge.units.zips import Matchings

T = TypeVar("T")

TrialScore: TypeAlias = tuple[float, float | None, int]
"""Agreement with the parents, the mark by labels, and on how many samples these were found."""

TRIED_ON: dict[Effort, int] = {"balanced": 1024, "best": 4096}
"""Samples that a merge is tried on, at most, by effort."""

JUDGED_BY = 1024
"""Held-out samples that judge it, at most."""


@dataclass(frozen=True, eq=False)
class Trials:
    """What all merges that are tried share; the parents are asked once for all of them, as soon as one needs it.

    ``job`` has the data that they are done on, ``held`` is what judges them, ``measurements`` are what matching needs.
    """

    job: Job
    held: CalibrationSource
    measurements: Measurements

    def merged(self, how: MergeOptions) -> tuple[Arrays, Matchings]:
        """Merge by ``how``, its repair by rule. Raises InputError where that cannot be merged."""
        own, models = replace(self.job, options=how), self.job.prepared.models
        step = repair_step(models.template.graph, self.job.prepared.typing, how.repair)
        matched = match(own, self.measurements)
        before = merged(own, matched, self.measurements, step)
        result, _ = answered(own, before, apart=False, theirs=lambda: self.on_fit)
        return result.weights, matched.matchings

    def score(self, evaluator: HeldOutEvaluator, how: MergeOptions) -> TrialScore:
        """How well the merge by ``how`` does. Raises InputError where that cannot be merged.

        ``evaluator`` knows the labels, and compares with each parent where these answer nothing together.
        """
        weights, matchings = self.merged(how)
        if not self.together:
            found = evaluator(weights, matchings)
            return found.reconstruction, found.accuracy, evaluator.samples
        mark = None if evaluator.by_labels is None else evaluator.by_labels(weights, matchings)
        agreed, samples = self._agreement(weights)
        return agreed, mark, samples

    def criterion(self, evaluator: HeldOutEvaluator) -> str:
        """What decides between scores."""
        by_ensemble = self.together and evaluator.by_labels is None
        return "agreement with the ensemble" if by_ensemble else evaluator.criterion

    def _agreement(self, weights: Arrays) -> tuple[float, int]:
        """How well merged weights agree with the parents' ensemble, the mean over outputs, and on how many samples."""
        job, rows = self.job, self.answers(weights)
        agreed = []
        for (layer, meaning), found in zip(self.together, rows, strict=True):
            reading = reading_of(meaning, found.parents, job.outputs.vectors_of(meaning), job.options.seed)
            agreed.append(float(agreement(layer, reading, job.shares)(found.merged, found.parents).mean()))
        return float(np.mean(agreed)), len(np.unique(rows[0].samples))

    def answers(self, weights: Arrays) -> list[Answers]:
        """What a merge answers to the held-out samples, at each of the outputs ``together``."""
        layers, job = [layer for layer, _ in self.together], self.job
        return answers_of(layers, job.network, weights, self.on_held, self.held, provider=job.options.provider)

    def kept(self, judge: str, how: MergeOptions, score: Callable[[], T]) -> T:
        """The ``score`` that a ``judge`` gives the merge by ``how``: what the store has of it, or what it comes to."""
        return self.job.store.kept(f"trial-{judge}", how, self._data, score)

    def kept_each(
        self, judge: str, every: Sequence[MergeOptions], work: Work[MergeOptions, T | InputError]
    ) -> Iterator[T | InputError]:
        """What ``work`` makes of the merge by each of some options; what the store has is not done again."""

        def scores(places: Sequence[int]) -> Iterator[T | InputError]:
            return self.job.executor.map(work, [every[place] for place in places])

        return self.job.store.kept_each(f"trial-{judge}", [(how, self._data) for how in every], scores)

    @property
    def _data(self) -> object:
        """What of the data merges are done and judged on."""
        return [None if source is None else cuts(source) for source in (self.job.source, self.held)]

    @cached_property
    def together(self) -> list[tuple[LastLayer, OutputMeaning]]:
        """The layers of the outputs that the parents answer together, and what these mean."""
        return answered_together(self.job)

    @cached_property
    def on_fit(self) -> list[ParentAnswers]:
        """What the parents answer to the samples that merges are done on, at all ``solved_layers``."""
        if self.job.source is None:
            return []
        layers = solved_layers(self.job)
        return asked_parents(self.job, layers, solved_on(self.job, layers, self.job.source))

    @cached_property
    def on_held(self) -> list[ParentAnswers]:
        """What they answer to those that are held out, at each of the outputs ``together``."""
        return asked_parents(self.job, [layer for layer, _ in self.together], self.held)


def trials_on(job: Job, split: Split, every: Sequence[MergeOptions], effort: Effort | None) -> Trials:
    """Trials of merges by ``every`` of some options, on the two parts of the data."""
    fit = Spread(split.fit, TRIED_ON.get(effort or "balanced", TRIED_ON["balanced"]))
    trial = job.on(fit)
    return Trials(trial, Spread(split.held, JUDGED_BY), measured(trial, every))
