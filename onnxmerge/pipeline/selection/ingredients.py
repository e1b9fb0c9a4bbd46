"""``--method greedy-soup``: which of the models are averaged, by the labels of held-out samples.

Recipe 1 of Wortsman et al. (ICML 2022, arXiv 2203.05482): with the models sorted by held-out accuracy, the best first,

    ingredients <- {}
    for each model:  if accuracy(mean(ingredients + {model})) >= accuracy(mean(ingredients)):  add it

A mean is judged as it would be merged, its BatchNorm statistics measured anew; the mean of one model is that model,
with its own. Of equally accurate models the one that was given first comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxmerge.calibration.subset import Split, cuts
from onnxmerge.errors import InputError
from onnxmerge.matching.method import MatchResult
from onnxmerge.merging.repair.choice import repair_step
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import Measurements
from onnxmerge.pipeline.restoring import merged
from onnxmerge.pipeline.selection.labelled import EvaluationTasks, labelled_evaluation


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A model by its place, its ``accuracy`` alone, and that of the mean with it and those that were taken before."""

    model: int
    accuracy: float
    together: float
    taken: bool


@dataclass(frozen=True, slots=True)
class SoupReport:
    """The models from the most accurate on by themselves, judged by ``criterion`` on held-out ``samples``."""

    criterion: str
    samples: int
    models: tuple[Ingredient, ...]

    @property
    def taken(self) -> tuple[Ingredient, ...]:
        """Those that are averaged, in the order in which they were taken."""
        return tuple(each for each in self.models if each.taken)


def choose_ingredients(job: Job, split: Split, asked: EvaluationTasks) -> tuple[tuple[int, ...], SoupReport]:
    """The places of the models that are averaged, and how these were found.

    ``job`` has none of the data that was held out, the samples that trials are repaired on: see ``in_brief``; ``asked``
    is what labels say of the samples held out.

    Raises InputError where labels do not fit, or no model has a finite accuracy.
    """
    evaluation = labelled_evaluation(job, split.held, asked)
    step = repair_step(job.prepared.models.template.graph, job.prepared.typing, job.options.repair)
    trial = replace(job, options=job.options.by(job.options.method, "none"))
    data = [None if source is None else cuts(source) for source in (job.source, split.held)]
    count, done = len(job.prepared.models.weights), 0
    with job.progress("choosing models") as report:

        def mark(places: Sequence[int]) -> float:
            nonlocal done
            soup = replace(trial, ingredients=tuple(sorted(places)))

            def judged() -> float:
                return evaluation(merged(soup, MatchResult(), Measurements(), step).weights, MatchResult().matchings)

            found = job.store.kept("soup", trial.options, [data, soup.ingredients], judged)
            done += 1
            report(done, 2 * count - 1)
            return found if math.isfinite(found) else -math.inf

        alone = [mark([place]) for place in range(count)]
        first, *others = sorted(range(count), key=lambda place: -alone[place])
        best = alone[first]
        if best == -math.inf:
            raise InputError("no model has finite answers on the held-out samples, so none can be taken before another")
        found = [Ingredient(first, best, best, taken=True)]
        for place in others:
            together = mark([*(each.model for each in found if each.taken), place])
            found.append(Ingredient(place, alone[place], together, together >= best))
            best = max(best, together)
    soup = SoupReport(evaluation.criterion, evaluation.samples, tuple(found))
    return tuple(sorted(each.model for each in soup.taken)), soup
