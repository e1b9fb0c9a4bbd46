"""What the networks of a landscape are held to: the labels of tasks, or what each parent answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnxmerge.calibration.chunks import Feed, rows
from onnxmerge.calibration.specs import fixed_batch, input_specs
from onnxmerge.calibration.subset import Spread
from onnxmerge.errors import InputError
from onnxmerge.evaluation.candidate import Candidate, open_candidate
from onnxmerge.evaluation.heads import LEAST, log_probabilities, logits
from onnxmerge.evaluation.losses import Losses, Right
from onnxmerge.evaluation.meanings import meanings_of, require_fitting
from onnxmerge.evaluation.scorer import require_columns
from onnxmerge.evaluation.task import ABSENT, Task
from onnxmerge.evaluation.truth import Truth
from onnxmerge.merging.answer.ensemble import COSINE_TEMPERATURE
from onnxmerge.merging.answer.meaning import Meaning, OutputMeaning, each_by_itself
from onnxmerge.merging.closed_form.consensus import unit
from onnxmerge.model.exposed import Exposed
from onnxmerge.model.network import Network
from onnxmerge.types import Array, Arrays, Floats


class LandscapeTasks(Protocol):
    """Tasks by ``names``, and what is right and what networks answer, task by task."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def right(self, place: int, feed: Feed) -> list[Right]:
        """What is right on a feed, whose first sample is at this place in the data, for each task."""

    def read(self, outputs: Arrays) -> list[Floats]:
        """What a network with these outputs answers to each task, as ``Right.loss`` takes it."""

    def notes(self, found: Sequence[Losses]) -> list[str]:
        """What a person should know of how far losses were ``found``. Raises InputError where a task has none."""


@dataclass(frozen=True, slots=True, eq=False)
class ByLabels:
    """Tasks with labels. ``candidate`` says which output answers which, ``meanings`` what that output is."""

    tasks: tuple[Task, ...]
    truth: Truth
    candidate: Candidate
    meanings: tuple[OutputMeaning | None, ...]
    widths: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    def right(self, place: int, feed: Feed) -> list[Right]:
        part = self.truth.at(np.arange(place, place + rows(feed)))
        return [
            Right(answers, classes=False) if task.kind == "regression" else _labelled(answers, width)
            for task, answers, width in zip(self.tasks, part.answers, self.widths, strict=True)
        ]

    def read(self, outputs: Arrays) -> list[Floats]:
        found = []
        for task, given, meaning in zip(
            self.tasks, self.candidate.read(outputs, self.tasks), self.meanings, strict=True
        ):
            if given is None:
                raise InputError(f"{self.candidate.network.label}: none of its outputs answers task {task.name!r}")
            if meaning is None:
                found.append(given)
            else:
                values = logits(task, given, meaning.meaning, cosines_at=COSINE_TEMPERATURE)
                found.append(log_probabilities(values))
        return found

    def notes(self, found: Sequence[Losses]) -> list[str]:
        """None: that each task has labels was seen before, and that some samples have none is meant."""
        del found
        return []


def _labelled(answers: Array, width: int) -> Right:
    """Right rows [n] as probabilities [n, width]; nan where a sample is not of the task."""
    found = np.zeros((len(answers), width))
    known = answers != ABSENT
    found[known, answers[known]] = 1
    found[~known] = np.nan
    return Right(found, classes=True)


def by_labels(
    network: Network,
    tasks: Sequence[Task],
    truth: Truth,
    feeds: Spread,
    asked: Mapping[str, Meaning],
    provider: str,
) -> ByLabels:
    """Tasks for networks like this one, on some feeds; ``truth`` has an answer for each sample of all the data.

    Raises InputError where labels, data and outputs do not fit together, UsageError where ``asked`` does not.
    """
    every, batch = sum(feeds.source.sizes), fixed_batch(input_specs(network.model))
    if not every <= truth.samples < every + (batch or 1):  # of a fixed batch, what fills no whole one is left out
        raise InputError(f"found {truth.samples} labels, expected one for each of the {every} samples")
    places = [np.arange(place, place + rows(feed)) for place, feed in feeds.placed()]
    truth.at(np.concatenate(places)).require_each(tasks, "--labels", "samples that networks run on (--samples)")
    feed = next(iter(feeds))
    candidate = open_candidate(network, tasks, learned=range(len(tasks)), provider=provider).fitted(feed)
    require_fitting(asked, tasks, candidate.outputs)
    given, widths = candidate.answers(feed, tasks), []
    for task, answer, right in zip(tasks, given, truth.answers, strict=True):
        if answer is not None:
            require_columns(task, answer, right)
            widths.append(answer.shape[1])
    meanings = meanings_of(candidate, given, tasks, asked)
    return ByLabels(tuple(tasks), truth, candidate, meanings, tuple(widths))


@dataclass(frozen=True, slots=True, eq=False)
class ByParents:
    """A task for each parent and float output: to answer as that parent does.

    The answers of classifiers are compared as probabilities, those of others as numbers, directions by their direction.
    ``parents`` are names and weights; ``meanings`` say what the outputs are, by name.
    """

    exposed: Exposed
    parents: tuple[tuple[str, Arrays], ...]
    meanings: Mapping[str, OutputMeaning]
    provider: str

    @property
    def names(self) -> tuple[str, ...]:
        several = len(self.outputs) > 1
        return tuple(f"as {parent}{f', {output}' if several else ''}" for parent, output in self._asked)

    @property
    def _asked(self) -> list[tuple[str, str]]:
        """The parent and the output of each task."""
        return [(parent, output) for parent, _ in self.parents for output in self.outputs]

    @property
    def outputs(self) -> tuple[str, ...]:
        graph = self.exposed.network.graph
        found = tuple(str(each.name) for each in graph.outputs if each.dtype and each.dtype.is_floating_point())
        if not found:
            raise InputError(
                f"{self.exposed.network.label}: has no output of floats, which losses need; give a model that has"
            )
        return found

    def right(self, place: int, feed: Feed) -> list[Right]:
        del place
        return [
            Right(_finite(np.exp(given), rows=True) if classes else _finite(given), classes=classes)
            for _, weights in self.parents
            for given, classes in self._answers(self.exposed.answers(weights, feed, provider=self.provider))
        ]

    def read(self, outputs: Arrays) -> list[Floats]:
        return [given for given, _ in self._answers(outputs)] * len(self.parents)

    def notes(self, found: Sequence[Losses]) -> list[str]:
        told = []
        for (parent, output), losses in zip(self._asked, found, strict=True):
            if not losses.count:
                raise InputError(
                    f"{parent}: output {output!r} answers no finite number on the data; give data that the model is "
                    "made for, or labels (--labels)"
                )
            if losses.unknown:
                told.append(
                    f"{parent}: {losses.unknown:,} of {losses.rows:,} answers of output {output!r} are not wholly "
                    "finite: losses leave out what is not"
                )
        return told

    def _answers(self, outputs: Arrays) -> list[tuple[Floats, bool]]:
        """Each output as it is compared, and whether that is as logarithms of probabilities."""
        values = {str(value.name): value for value in self.exposed.network.graph.outputs}
        found = []
        for name in self.outputs:
            given, known = outputs[name].astype(np.float64), self.meanings.get(name)
            meaning = None if known is None or given.ndim != 2 else known.meaning
            if meaning == "logits":
                found.append((log_probabilities(given), True))
            elif meaning == "probabilities" and not each_by_itself(values[name]):
                found.append((np.log(np.maximum(given, LEAST)), True))
            else:
                found.append((unit(given) if meaning == "embedding" else given, False))
        return found


def _finite(values: Floats, *, rows: bool = False) -> Floats:
    """Values with nan for each that is not finite, or for all of its row."""
    known = np.isfinite(values)
    return np.where(known.all(axis=1, keepdims=True) if rows else known, values, np.nan)
