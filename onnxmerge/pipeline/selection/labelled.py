"""How well a merged network does at labelled tasks, on held-out data: what decides a search where labels are given.

The mark is the mean over tasks of what ``evaluate`` finds: the accuracy of a classification, the scaled score of a
regression, which starts from the mean target. 1 is right everywhere and as good as the parents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.calibration.chunks import Feed, rows
from onnxmerge.calibration.sources import CalibrationSource, SourceSpec
from onnxmerge.calibration.subset import Split, Spread
from onnxmerge.errors import InputError
from onnxmerge.evaluation.candidate import Candidate, open_candidate
from onnxmerge.evaluation.labels import LabelSpec, read_labels
from onnxmerge.evaluation.scaled import scaled_scores
from onnxmerge.evaluation.scorer import Accuracy, Regression, Scorer, Scores, scores_of_means
from onnxmerge.evaluation.task import Task
from onnxmerge.evaluation.truth import Truth, truth
from onnxmerge.heads.assembly import readings
from onnxmerge.model.network import Network
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.prepare import ModelSource, Prepared
from onnxmerge.pipeline.separation import MergedModel, Parents, joined
from onnxmerge.pipeline.tasks import TaskSpec, require_own_folder, tasks_learned, tasks_of
from onnxmerge.units.permutations import identity
from onnxmerge.units.zips import Matchings

LABELLED_SAMPLES = 1024
"""Held-out samples that candidates are examined on, at most; a sample tells no more than right or wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationTasks:
    """Tasks and the right answers to them: for every calibration sample, or for those that were held out.

    ``learned[p]`` are the indices of the tasks that parent ``p`` learned; nobody asks unless there is a regression.
    """

    tasks: tuple[Task, ...]
    right: Truth
    parents: Parents
    learned: tuple[tuple[int, ...], ...]

    def at(self, places: NDArray[Any]) -> EvaluationTasks:
        """The tasks on some of the samples: places [n], or bool [N]."""
        return replace(self, right=self.right.at(places))

    def held_out(self, split: Split) -> EvaluationTasks:
        """The tasks on the samples that are held out. Raises InputError unless each sample has a label."""
        held = split.held_rows()
        if self.right.samples != len(held):
            raise InputError(
                f"found {self.right.samples} labels, expected one for each of the {len(held)} calibration samples"
            )
        return self.at(held)


def evaluation_tasks(
    labels: LabelSpec | None,
    tasks: TaskSpec | None,
    vectors: str | Path | None,
    *,
    data: SourceSpec | None,
    models: Sequence[ModelSource],
    parents: Parents,
) -> EvaluationTasks | None:
    """What the merged network is to be asked; None where there are no labels.

    Where ``tasks`` are not said, labels are the classes of the first output.

    Raises:
        InputError: labels, tasks or vectors cannot be read or do not fit together.
        UsageError: it is not clear which parent learned a regression.

    """
    if labels is None:
        return None
    if data is not None:
        require_own_folder(labels, data)
    first = None if parents.separation is not None else str(parents.models.template.graph.outputs[0].name)
    found, listed = tasks_of(tasks, vectors, Task("labels", output=first))
    regressions = any(task.kind == "regression" for task in found)
    learned = tasks_learned(models, found, listed) if regressions else [()] * len(models)
    return EvaluationTasks(found, truth(found, read_labels(labels)), parents, tuple(learned))


@dataclass(frozen=True, slots=True, eq=False)
class LabelledEvaluation:
    """Tasks for a merged network, on the samples of ``feeds``.

    ``network`` is the graph that merged weights belong to. ``lowest`` are the scores of the mean targets,
    ``parent_scores`` those of the parents, with what they learned: between these lie scaled scores of regressions.
    """

    asked: EvaluationTasks
    prepared: Prepared
    network: Network
    feeds: tuple[Feed, ...]
    provider: str
    lowest: Scores | None = None
    parent_scores: tuple[tuple[tuple[int, ...], Scores], ...] = ()

    @property
    def criterion(self) -> str:
        """What decides."""
        kinds = {task.kind for task in self.asked.tasks}
        names = {"classification": "accuracy", "regression": "scaled score"}
        return " and ".join(name for kind, name in names.items() if kind in kinds)

    @property
    def samples(self) -> int:
        """How many samples it asks about."""
        return self.asked.right.samples

    def __call__(self, weights: Mapping[str, NDArray[Any]], matchings: Matchings) -> float:
        """The mark of the network with merged ``weights``, in the units to which ``matchings`` led."""
        product = self.product(weights, matchings)
        tasks = self.asked.tasks
        candidate = open_candidate(product.network, tasks, weights=product.weights, provider=self.provider)
        for task, output in zip(tasks, candidate.outputs, strict=True):
            if output is None:
                raise InputError(f"{product.network.label}: none of its outputs answers task {task.name!r}")
        found = self.scores(candidate, tasks)
        scaled = scaled_scores(tasks, found, self.lowest, self.parent_scores)
        return float(np.mean([_mark(*given) for given in zip(tasks, found.tasks, scaled, strict=True)]))

    def product(self, weights: Mapping[str, NDArray[Any]], matchings: Matchings) -> MergedModel:
        """The merged network, the heads behind it where these are apart."""
        reads = readings(self.prepared.typing, sorted(self.prepared.models.border), matchings)
        return joined(self.asked.parents, self.network, weights, reads)

    def scores(self, candidate: Candidate, tasks: Sequence[Task]) -> Scores:
        """The scores of a network; ``tasks`` name its outputs."""
        scorer = Scorer(tasks, replace(self.asked.right, owner=None))
        for feed in self.feeds:
            scorer.update(candidate.answers(feed, tasks))
        return scorer.scores()


def labelled_evaluation(job: Job, held: CalibrationSource, asked: EvaluationTasks) -> LabelledEvaluation:
    """An evaluation on data that must not be in ``job.source``; ``asked`` are the tasks on all of its samples.

    Raises:
        InputError: the tasks do not fit the network, no held-out sample has a label of a task, or no parent is any
            good at a regression that it learned.

    """
    feeds, places = [], []
    for place, feed in Spread(held, LABELLED_SAMPLES).placed():
        feeds.append(feed)
        places.append(np.arange(place, place + rows(feed)))
    chosen = asked.at(np.concatenate(places))
    chosen.right.require_each(asked.tasks, "--labels", "held-out samples")
    evaluation = LabelledEvaluation(
        chosen, job.prepared, job.prepared.models.template, tuple(feeds), job.options.provider
    )
    if any(task.kind == "regression" for task in asked.tasks):
        evaluation = replace(
            evaluation, lowest=scores_of_means(asked.tasks, chosen.right), parent_scores=_parent_scores(evaluation)
        )
    # What does not fit the network is to be said now, not held against a candidate.
    evaluation(*_unmerged(job.prepared))
    return replace(evaluation, network=job.network)


def _unmerged(prepared: Prepared) -> tuple[Mapping[str, NDArray[Any]], Matchings]:
    """The first parent, as if the others had been merged into it."""
    first, *others = prepared.models.weights
    return first, [identity(prepared.typing.spaces) for _ in others]


def _parent_scores(evaluation: LabelledEvaluation) -> tuple[tuple[tuple[int, ...], Scores], ...]:
    """What each parent learned, and its scores; tasks name the outputs of the merged network."""
    asked, found = evaluation.asked, []
    names = evaluation.product(*_unmerged(evaluation.prepared)).outputs
    for network, learned, merged in zip(asked.parents.networks, asked.learned, names, strict=True):
        own = {name: str(value.name) for name, value in zip(merged, network.graph.outputs, strict=True)}
        tasks = [replace(task, output=own.get(task.output or "", task.output)) for task in asked.tasks]
        candidate = open_candidate(network, tasks, learned=learned, provider=evaluation.provider)
        found.append((learned, evaluation.scores(candidate, tasks)))
    return tuple(found)


def _mark(task: Task, found: Accuracy | Regression | None, scaled: float | None) -> float:
    if isinstance(found, Accuracy):
        return found.top[0]
    if scaled is None:
        raise InputError(
            f"task {task.name!r}: the parents that learned it are no better at it than the mean target; "
            "nothing can be decided by it, leave it out"
        )
    return scaled
