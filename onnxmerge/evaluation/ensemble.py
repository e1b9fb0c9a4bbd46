"""The parents together: each answers the tasks that it learned. The bound that a merged model approaches.

They are put together in two ways. The *plain* one is that of MuDSC: probabilities task by task, cosines at the sharp
temperature that such networks are trained with. The other is what ``--answer ensemble`` aims at, by the numbers of the
module that does so: parents are surer of themselves than they are right, so it asks them at milder temperatures, and
each among all classes that it learned.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias

import numpy as np

from onnxmerge.evaluation.heads import Answers, log_probabilities, logits
from onnxmerge.evaluation.task import Task
from onnxmerge.merging.answer.ensemble import COSINE_TEMPERATURE, LOGIT_TEMPERATURES
from onnxmerge.merging.answer.meaning import Meaning
from onnxmerge.types import Floats

LOGIT_TEMPERATURE = LOGIT_TEMPERATURES[1]
"""At which ``--answer ensemble`` measures how well a merged network agrees with its parents."""


Learned: TypeAlias = Sequence[Sequence[int]]
"""For each parent the indices of the tasks that it learned."""


def ensemble(tasks: Sequence[Task], parents: Sequence[Answers], learned: Learned) -> list[Floats | None]:
    """Answers of all parents together: for each task those of the parents that ``learned`` it.

    Floats are made comparable as logarithms of probabilities. Where several parents learned a task, their probabilities
    are averaged; predictions, and outputs that a threshold divides, are averaged as they are. A task that nobody
    learned has no answer.
    """
    return [_together(task, *_of_task(parents, learned, index)) for index, task in enumerate(tasks)]


def mild_ensemble(tasks: Sequence[Task], parents: Sequence[Answers], learned: Learned) -> list[Floats | None]:
    """What the parents answer together as ``--answer ensemble`` would have it.

    Each parent's probabilities are those of all classes of its own in one output, of logits and cosines at a mild
    temperature; those of one task are averaged over its parents.
    """
    own = [_own_probabilities(tasks, parent, known) for parent, known in zip(parents, learned, strict=True)]
    found: list[Floats | None] = []
    for index, task in enumerate(tasks):
        if task.kind == "regression":
            found.append(_together(task, *_of_task(parents, learned, index)))
        else:
            found.append(_mean([each[index] for each in own if index in each]))
    return found


def how_mild(meanings: Collection[Meaning]) -> str:
    """What `mild_ensemble` does with outputs of these ``meanings``, for people."""
    kinds: tuple[tuple[Meaning, str], ...] = (
        ("embedding", f"cosines at temperature {COSINE_TEMPERATURE:g}"),
        ("logits", f"logits at temperature {LOGIT_TEMPERATURE:g}"),
        ("probabilities", "probabilities as they are"),
    )
    return f"each parent among the classes that it learned, {', '.join(how for kind, how in kinds if kind in meanings)}"


def _of_task(parents: Sequence[Answers], learned: Learned, index: int) -> tuple[list[Floats], list[Meaning | None]]:
    """What the parents that learned a task answer to it, and what that means."""
    pairs = [(one.given[index], one.meanings[index]) for one, own in zip(parents, learned, strict=True) if index in own]
    known = [(answer, meaning) for answer, meaning in pairs if answer is not None]
    return [answer for answer, _ in known], [meaning for _, meaning in known]


def _together(task: Task, answers: Sequence[Floats], meanings: Sequence[Meaning | None]) -> Floats | None:
    if not answers:
        return None
    if task.kind == "regression" or task.threshold is not None:
        mean: Floats = np.mean(answers, axis=0)
        return mean if task.kind == "regression" else log_probabilities(logits(task, mean, meanings[0]))
    pairs = zip(answers, meanings, strict=True)
    return _mean([log_probabilities(logits(task, given, meaning)) for given, meaning in pairs])


def _own_probabilities(tasks: Sequence[Task], parent: Answers, learned: Sequence[int]) -> dict[int, Floats]:
    """For each classification that a parent learned, the logarithms of its probabilities [N, rows]."""
    values = parent.logits(tasks, COSINE_TEMPERATURE)
    groups: dict[str | None, dict[int, Floats]] = {}
    for index in learned:
        own = values[index]
        if own is not None:
            mild = own / LOGIT_TEMPERATURE if parent.meanings[index] == "logits" else own
            groups.setdefault(parent.outputs[index], {})[index] = mild
    found: dict[int, Floats] = {}
    for group in groups.values():
        both = log_probabilities(np.concatenate(list(group.values()), axis=1))
        ends = np.cumsum([own.shape[1] for own in group.values()])
        found |= dict(zip(group, np.split(both, ends[:-1], axis=1), strict=True))
    return found


def _mean(scores: Sequence[Floats]) -> Floats | None:
    """The logarithms of mean probabilities; None where there are none."""
    if len(scores) < 2:
        return scores[0] if scores else None
    found: Floats = np.logaddexp.reduce(scores, axis=0) - np.log(len(scores))
    return found
