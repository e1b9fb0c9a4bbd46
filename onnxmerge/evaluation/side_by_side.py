"""Models side by side on labelled data, batch by batch: scores of each, and of their parents' ensembles.

It takes what models answer and runs none, so that whoever runs them for other reasons too need not run them twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onnxmerge.evaluation.candidate import Candidate
from onnxmerge.evaluation.ensemble import ensemble, mild_ensemble
from onnxmerge.evaluation.heads import Answers, on_one_scale, sureness
from onnxmerge.evaluation.heads import Scores as Heads
from onnxmerge.evaluation.meanings import meanings_of, require_probabilities
from onnxmerge.evaluation.scorer import Scorer, Sureness
from onnxmerge.evaluation.task import Task
from onnxmerge.merging.answer.meaning import Meaning, OutputMeaning


@dataclass(frozen=True, slots=True)
class EnsembleForm:
    """A way to put parents together, and the row that it has."""

    name: str
    role: Literal["ensemble", "answer"]
    answers: Callable[[Sequence[Task], Sequence[Answers], Sequence[Sequence[int]]], list[Heads | None]]


PLAIN = EnsembleForm("ensemble of the parents", "ensemble", ensemble)
AS_THE_TOOL = EnsembleForm("ensemble as --answer forms it", "answer", mild_ensemble)


class SideBySide:
    """Scorers of some candidates and of their parents together.

    ``learned`` has the tasks that each parent learned, by its place among the candidates; ``scorer`` makes one for
    each row, ``asked`` says what outputs mean where somebody does.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        learned: Mapping[int, Sequence[int]],
        tasks: Sequence[Task],
        scorer: Callable[[], Scorer],
        asked: Mapping[str, Meaning],
    ) -> None:
        self._candidates, self._learned, self._tasks, self._asked = candidates, learned, tasks, asked
        self.scorers = tuple(scorer() for _ in candidates)
        asks = any(task.kind == "classification" for task in tasks)
        forms = (PLAIN, AS_THE_TOOL) if asks else (PLAIN,)
        self.together = tuple((form, scorer()) for form in forms if learned)
        self.meanings: tuple[tuple[OutputMeaning | None, ...], ...] = tuple(() for _ in candidates)
        self._begun = False

    def take(self, given: Sequence[Sequence[Heads | None]]) -> None:
        """Score what each candidate answers to the next batch. Raises InputError as `Scorer.update` does."""
        tasks = self._tasks
        if not self._begun:
            pairs = zip(self._candidates, given, strict=True)
            self.meanings = tuple(meanings_of(*each, tasks, self._asked) for each in pairs)
            self._begun = True
        answers = [_answers(*each) for each in zip(self._candidates, given, self.meanings, strict=True)]
        for scorer, own in zip(self.scorers, answers, strict=True):
            scorer.update(on_one_scale(tasks, own), sureness(tasks, own))
        for form, scorer in self.together:
            both = form.answers(tasks, [answers[place] for place in self._learned], list(self._learned.values()))
            scorer.update(both, Sureness(both, apart=True))


def _answers(candidate: Candidate, given: Sequence[Heads | None], meanings: Sequence[OutputMeaning | None]) -> Answers:
    require_probabilities(meanings, given, candidate.network.label)
    return Answers(given, [None if each is None else each.meaning for each in meanings], candidate.outputs)
