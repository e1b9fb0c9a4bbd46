"""``--weights auto``: how much each parent counts, by what it knows.

What a parent knows is found without labels from how the parents answer the same samples (``merging.answer.votes``).
How much it should count does not follow from that: a parent that is seldom right may be the only one that knows some
class, and a merge is no ensemble. So the models are merged with equal weights, and with the odds a / (1 - a) of each
parent's accuracy a, to several powers, on some of the data, in the way to merge that was chosen before. Held-out
samples judge these merges, by the chance that what they answer is right. Equal weights stay unless others are better by
more than one standard error of the difference.

The judge must not be the parents' ensemble, for that is formed with the weights: each merge would be held to its own.
Nor the ensemble of equal weights, which believes a bad parent as much as a good one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxmerge.calibration.subset import holds
from onnxmerge.contracts import AUTO
from onnxmerge.errors import UsageError
from onnxmerge.merging.answer.answer import reading_of
from onnxmerge.merging.answer.last_layer import Answers
from onnxmerge.merging.answer.meaning import each_by_itself
from onnxmerge.merging.answer.votes import Votes, votes_of
from onnxmerge.pipeline.answering import solved_layers
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.options import Effort, MergeOptions
from onnxmerge.pipeline.selection.held_out import PLENTY, CandidateScore, held_out
from onnxmerge.pipeline.selection.labelled import EvaluationTasks, LabelledEvaluation, labelled_evaluation
from onnxmerge.pipeline.selection.trials import Trials, trials_on
from onnxmerge.types import Floats

POWERS = {"equal": 0.0, "square root of the odds": 0.5, "odds": 1.0, "odds squared": 2.0}
"""How the odds of the parents become weights."""

KNOWN = 0.01
"""No parent is taken to be right or wrong more surely than this."""

LEAST = 0.5
"""Where no parent is right more often, by their own lights, nobody can say which of them is."""

NEXT_TO_NOTHING = 0.1
"""A parent that counts less than this share of an equal part may as well be left out."""


@dataclass(frozen=True, slots=True)
class WeightsCandidate:
    """Weights that were tried, in words how they were found, and how the merge did on held-out samples.

    ``agreement`` is the chance that an answer is right, by what the parents know; ``accuracy`` None without labels.
    """

    found: str
    weights: tuple[float, ...]
    agreement: float
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """What each of the parents knows, which weights were tried, and which was ``chosen`` by ``criterion``.

    ``parents`` are the accuracies of the parents as these judge each other, ``samples`` those that were held out.
    """

    parents: tuple[float, ...]
    criterion: str
    samples: int
    candidates: tuple[WeightsCandidate, ...]
    chosen: int
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> tuple[float, ...]:
        """Those that were chosen."""
        return self.candidates[self.chosen].weights

    @property
    def chosen_flags(self) -> tuple[str, ...]:
        """The same, as the command line has them."""
        return "--weights", ",".join(f"{weight:g}" for weight in self.weights)


def weighed(
    job: Job, how: MergeOptions, asked: EvaluationTasks | None, effort: Effort | None
) -> tuple[MergeOptions, WeightsReport | None]:
    """The way to merge with the weights that suit it best, and how these were found: None where they were said.

    ``job`` has all of the data, ``asked`` is what labels say of it. ``effort`` says how much data merges are tried on.

    Raises UsageError where the models have no answers by which they could be weighed, InputError where labels do not
    fit, or the models cannot be merged.
    """
    if not how.weighs:
        return how, None
    source = job.source
    if source is None or not holds(source, PLENTY):
        raise UsageError(f"--weights {AUTO} judges by held-out samples: give {PLENTY} samples or more, or numbers")
    job, split = replace(job, options=how), held_out(source, job.prepared.models)
    trials = trials_on(job, split, [how], effort)
    judges = _judges(trials)
    labels = None if asked is None else labelled_evaluation(trials.job, split.held, asked.held_out(split))
    parents = _accuracies(trials, judges)
    tried: list[_Tried] = []
    every = _candidates(parents, labelled=labels is not None)
    with job.progress("weighing the models") as report:
        for index, (found, weights) in enumerate(every):
            trial = replace(how, weights=weights)
            scores, mark = trials.kept("weights", trial, partial(_judged, trials, judges, labels, trial))
            tried.append(_Tried(found, weights, [_Scores(*each) for each in scores], mark))
            report(index + 1, len(every))
    best = _best(tried)
    chosen = replace(how, weights=tried[best].weights)
    return chosen, WeightsReport(
        parents,
        "chance to be right, by what the models know" if labels is None else labels.criterion,
        len(tried[0].scores[0].samples) if labels is None else labels.samples,
        tuple(WeightsCandidate(each.found, each.weights, each.score.reconstruction, each.mark) for each in tried),
        best,
        tuple(_notes(parents, tried[best].weights, many=len(every) > 1)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """The scores of one output, the mean for each of its ``samples``."""

    samples: NDArray[np.int64]
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """Weights that were tried, with the scores at every output and the mark by labels."""

    found: str
    weights: tuple[float, ...]
    scores: Sequence[_Scores]
    mark: float | None

    @property
    def score(self) -> CandidateScore:
        return CandidateScore(float(np.mean([each.values.mean() for each in self.scores])), self.mark)

    def doubt(self, other: _Tried) -> float:
        """The standard error of the difference of two scores."""
        pairs = zip(self.scores, other.scores, strict=True)
        differences = [one.values - two.values for one, two in pairs]
        return float(np.sqrt(np.sum([each.var() / each.size for each in differences]))) / len(differences)


def _judges(trials: Trials) -> list[Votes | None]:
    """What the parents know, at each of the outputs that they answer together; None where that cannot be said.

    Raises UsageError where it can be said of none.
    """
    job, found = trials.job, list[Votes | None]()
    own = dict(zip((id(layer) for layer in solved_layers(job)), trials.on_fit, strict=True))
    for layer, meaning in trials.together:
        answers = own[id(layer)].parents
        reading = reading_of(meaning, answers, job.outputs.vectors_of(meaning), job.options.seed)
        classes = not each_by_itself(layer.output) if reading is None else reading.shared and not reading.centres
        found.append(votes_of(answers, reading) if classes else None)
    if not any(found):
        told = ", ".join(f"{name} ({each.meaning})" for name, each in job.outputs.meanings.items()) or "none"
        raise UsageError(
            f"--weights {AUTO} weighs models by the classes that all of them answer; found of outputs: {told}; give "
            "numbers, or say what outputs are (--outputs logits; --vectors with --answer ensemble)"
        )
    return found


def _accuracies(trials: Trials, judges: Sequence[Votes | None]) -> tuple[float, ...]:
    """How often each parent is right on held-out samples, the mean over outputs, by what they know."""
    pairs = zip(judges, trials.on_held, strict=True)
    every = [judge.accuracies(own.parents) for judge, own in pairs if judge is not None]
    return tuple(float(value) for value in np.mean(every, axis=0))


def _candidates(parents: Sequence[float], *, labelled: bool) -> list[tuple[str, tuple[float, ...]]]:
    """The weights that are tried, equal ones first; those alone where neither labels nor the parents can tell."""
    equal = "equal", (1.0,) * len(parents)
    if not (labelled or max(parents) > LEAST):
        return [equal]
    sure = np.clip(parents, KNOWN, 1 - KNOWN)
    found = {equal[1]: equal[0]}
    for name, power in POWERS.items():
        weights = (sure / (1 - sure)) ** power
        rounded = tuple(max(float(f"{weight:.3g}"), 1e-6) for weight in weights / weights.sum())
        if len(set(rounded)) > 1:
            found.setdefault(rounded, name)
    return [(name, weights) for weights, name in found.items()]


def _judged(
    trials: Trials, judges: Sequence[Votes | None], labels: LabelledEvaluation | None, how: MergeOptions
) -> tuple[list[tuple[NDArray[np.int64], Floats]], float | None]:
    """The scores of a merge at every output that has a judge, with their samples, and its mark by labels."""
    merged, matchings = trials.merged(how)
    scores = _scores(judges, trials.answers(merged))
    return [(each.samples, each.values) for each in scores], None if labels is None else labels(merged, matchings)


def _scores(judges: Sequence[Votes | None], rows: Sequence[Answers]) -> list[_Scores]:
    """The chance of what a merge answers, the mean for each sample, at each output that has a judge."""
    found = []
    for judge, own in zip(judges, rows, strict=True):
        if judge is not None:
            samples, places, counts = np.unique(own.samples, return_inverse=True, return_counts=True)
            found.append(_Scores(samples, np.bincount(places, judge(own.merged, own.parents)) / counts))
    return found


def _best(tried: Sequence[_Tried]) -> int:
    """The best by labels; without them, the best of equal weights and those that are better beyond doubt."""
    equal, scores = tried[0], [each.score.reconstruction for each in tried]
    found = list(range(len(tried)))
    if equal.mark is None and np.isfinite(scores[0]):
        found = [index for index in found if index == 0 or scores[index] - scores[0] > tried[index].doubt(equal)]
    return max(found, key=lambda index: tried[index].score.rank)


def _notes(parents: Sequence[float], weights: Sequence[float], *, many: bool) -> list[str]:
    notes = []
    if not many and not max(parents) > LEAST:
        notes.append(
            "the models agree too little to tell which of them is right (at most "
            f"{max(parents):.0%} of answers, by their own lights), so they count alike; labels would tell (--labels)"
        )
    for index, weight in enumerate(weights):
        share = weight * len(weights) / sum(weights)
        if share < NEXT_TO_NOTHING:
            notes.append(f"model {index + 1} counts next to nothing ({weight:g}); a merge without it may be better")
    return notes
