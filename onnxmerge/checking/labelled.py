"""Accuracy of a model, its parents and their ensemble, from what they answer when everything else is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.checking.runs import Runner
from onnxmerge.errors import InputError
from onnxmerge.evaluation.candidate import Candidate, outputs_of
from onnxmerge.evaluation.intervals import Interval, of_paired_difference
from onnxmerge.evaluation.scorer import Accuracy, Scorer
from onnxmerge.evaluation.side_by_side import SideBySide
from onnxmerge.evaluation.task import Task
from onnxmerge.evaluation.truth import Truth


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """How one model does at one task; ``accuracy`` is from 0 to 1, nan where the task is a regression.

    ``right`` [samples] says of each sample of the task whether the answer was right.
    """

    model: str
    role: str
    task: str
    accuracy: float
    interval: Interval
    samples: int
    learned: bool
    right: NDArray[np.bool_]

    def lost(self, reference: Score) -> tuple[float, Interval]:
        """How much accuracy it lost against a model that answered the same samples, and the 95% interval of that."""
        only_theirs, only_ours = (reference.right & ~self.right).sum(), (self.right & ~reference.right).sum()
        ends = of_paired_difference(int(only_theirs), int(only_ours), self.samples)
        return reference.accuracy - self.accuracy, ends


@dataclass(eq=False)
class LabelledEvaluation:
    """The right answers, and what models give as a pass over the data goes on; it runs none of them.

    ``learned`` has the tasks that each parent learned. ``failure`` says why there are no scores.
    """

    tasks: tuple[Task, ...]
    right: Truth
    learned: tuple[tuple[int, ...], ...]
    failure: InputError | None = None
    runners: tuple[Runner, ...] = ()
    candidates: list[Candidate] = field(default_factory=list)
    side: SideBySide | None = None

    def take(
        self, runners: Sequence[Runner], outputs: Sequence[Mapping[str, Any] | InputError], rows: int | None
    ) -> None:
        """Score one feed: what the model and its parents gave for it, or why they did not.

        ``rows`` are its samples, None where axis 0 is not the batch. What is wrong is kept as ``failure``.
        """
        try:
            if self.failure is None:
                self._take(runners, outputs, rows)
        except InputError as error:
            self.failure = error

    def _take(
        self, runners: Sequence[Runner], outputs: Sequence[Mapping[str, Any] | InputError], rows: int | None
    ) -> None:
        if self.side is None:
            self.runners, learned = tuple(runners), ((), *self.learned)
            self.candidates = [
                Candidate(runner.network, runner.session, runner.specs, outputs_of(self.tasks, runner.network, own))
                for runner, own in zip(runners, learned, strict=True)
            ]
            parents = dict(enumerate(self.learned, start=1))
            self.side = SideBySide(self.candidates, parents, self.tasks, lambda: Scorer(self.tasks, self.right), {})
        given = []
        for candidate, found in zip(self.candidates, outputs, strict=True):
            if isinstance(found, InputError):
                raise found
            if rows is not None:
                candidate.require_rows(found, rows)
            given.append(candidate.read(found, self.tasks))
        self.side.take(given)

    def scores(self) -> list[Score]:
        """The scores, task by task. Raises InputError where there are none."""
        if self.failure is not None:
            raise self.failure
        if self.side is None:
            raise InputError("the data has no sample")
        labels = [runner.network.label for runner in self.runners]
        found = self._of("model", labels[0], self.side.scorers[0], range(len(self.tasks)))
        for label, scorer, own in zip(labels[1:], self.side.scorers[1:], self.learned, strict=True):
            found += self._of("parent", label, scorer, own)
        for form, scorer in self.side.together:
            found += self._of(form.role, form.name, scorer, ())
        return found

    def _of(self, role: str, name: str, scorer: Scorer, learned: Sequence[int]) -> list[Score]:
        scores = []
        for place, (task, score) in enumerate(zip(self.tasks, scorer.scores().tasks, strict=True)):
            if score is None:
                continue
            rate, ends = math.nan, (math.nan, math.nan)
            if isinstance(score, Accuracy):
                rate, ends = score.top[0], score.intervals[0]
            known = place in learned
            scores.append(Score(name, role, task.name, rate, ends, score.samples, known, scorer.right(place)))
        return scores
