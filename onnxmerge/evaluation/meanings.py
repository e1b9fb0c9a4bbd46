"""What the outputs of models mean to the classifications that ask them, and so how sure their answers are.

The meanings are those of a merge (``merging.answer.meaning``), found in the same way: what the user says and the graph
shows. Where neither decides, more is known here than in a merge: labels say that the columns are scores of classes.
They are probabilities where their values are, and else logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxmerge.errors import InputError, UsageError
from onnxmerge.evaluation.candidate import Candidate
from onnxmerge.evaluation.task import Task
from onnxmerge.merging.answer.ensemble import COSINE_TEMPERATURE
from onnxmerge.merging.answer.meaning import Meaning, OutputMeaning, known_meaning
from onnxmerge.types import Floats

ROUNDING = 1e-3
"""Probabilities may miss 0, 1, and 1 in sum by so much."""

_SURE: Mapping[Meaning, str] = {
    "logits": "their softmax",
    "probabilities": "them as they are",
    "embedding": f"the softmax of cosines at temperature {COSINE_TEMPERATURE:g}",
}


def meanings_of(
    candidate: Candidate, answers: Sequence[Floats | None], tasks: Sequence[Task], asked: Mapping[str, Meaning]
) -> tuple[OutputMeaning | None, ...]:
    """What the output that answers each task means, by its first ``answers``; None for a regression, or no answer.

    ``asked`` is what ``--outputs`` says of outputs by name (see `require_fitting`).
    """
    values = {value.name: value for value in candidate.network.graph.outputs}
    return tuple(
        None if scores is None or task.kind == "regression" else _meaning(task, values[name], scores, asked)
        for task, name, scores in zip(tasks, candidate.outputs, answers, strict=True)
    )


def _meaning(task: Task, value: ir.Value, scores: Floats, asked: Mapping[str, Meaning]) -> OutputMeaning:
    name = str(value.name)
    known = known_meaning(value, asked=asked.get(name), vectors=task.vectors is not None)
    if known is not None and (task.vectors is not None or known.meaning != "embedding"):
        return known
    if task.threshold is None and _are_probabilities(scores):
        return OutputMeaning(name, "probabilities", "its values are positive and add up to 1")
    return OutputMeaning(name, "logits", "its columns are scores of classes")


def require_fitting(asked: Mapping[str, Meaning], tasks: Sequence[Task], outputs: Sequence[str | None]) -> None:
    """Raise UsageError where ``asked`` contradicts a task; ``outputs`` are those of a model that answer each."""
    for task, output in zip(tasks, outputs, strict=True):
        meaning = None if output is None else asked.get(output)
        if meaning is not None and meaning not in (allowed := _meanings(task)):
            raise UsageError(
                f"--outputs: output {output!r} answers task {task.name!r}, which takes {' or '.join(allowed)}, not "
                f"{meaning}" + ("; an embedding needs class vectors (--vectors)" if meaning == "embedding" else "")
            )


def _meanings(task: Task) -> tuple[Meaning, ...]:
    if task.kind == "regression":
        return ("regression", "features")
    return ("logits", "probabilities") if task.vectors is None else ("embedding",)


def require_probabilities(
    meanings: Sequence[OutputMeaning | None], answers: Sequence[Floats | None], origin: str
) -> None:
    """Raise InputError where an output that is to be probabilities has other values."""
    for meaning, scores in zip(meanings, answers, strict=True):
        if meaning is not None and scores is not None and meaning.meaning == "probabilities":
            outside = scores[(scores < -ROUNDING) | (scores > 1 + ROUNDING)]
            if outside.size:
                raise InputError(
                    f"{origin}, output {meaning.output!r}: has {outside[0]:.4g}, expected probabilities from 0 to 1, "
                    f"{_reason(meaning)}; --outputs says what it is"
                )


def told(models: Sequence[tuple[str, Sequence[OutputMeaning | None]]]) -> list[str]:
    """A line for each thing that an output is taken for, with the ``models`` where they differ in it."""
    found: dict[str, dict[OutputMeaning, list[str]]] = {}
    for model, meanings in models:
        for meaning in dict.fromkeys(each for each in meanings if each is not None):
            found.setdefault(meaning.output, {}).setdefault(meaning, []).append(model)
    return [
        f"output {output!r}: {meaning.meaning}, {_reason(meaning)}; ECE takes "
        f"{_SURE[meaning.meaning]}" + (f" ({', '.join(names)})" if len(kinds) > 1 else "")
        for output, kinds in found.items()
        for meaning, names in kinds.items()
    ]


def _reason(meaning: OutputMeaning) -> str:
    return meaning.why if meaning.why.startswith("as ") else f"for {meaning.why}"


def _are_probabilities(scores: Floats) -> bool:
    sums = scores.sum(axis=1)
    return bool((scores >= 0).all() and (np.abs(sums - 1) <= ROUNDING).all())
