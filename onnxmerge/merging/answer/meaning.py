"""What an output means, found by looking where it can be, and how that was found.

The parents of a merge answer together in different ways by what their outputs are: probabilities are averaged, logits
by the probabilities that they stand for, embeddings by the directions in which each parent's answers vary. A file does
not say which it is. What can be seen in the graph decides first (a Softmax or Sigmoid at the end, a division by the
length), then what the user gave (class vectors), then shapes, and only then the values, which is a guess and is called
one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import onnx_ir as ir

from onnxmerge.errors import UsageError
from onnxmerge.merging.skewness import CODED, is_direction, skewness
from onnxmerge.model.traits import has
from onnxmerge.types import Rows

Meaning: TypeAlias = Literal["logits", "probabilities", "embedding", "regression", "features"]
MEANINGS: tuple[Meaning, ...] = get_args(Meaning)


SHAPING = ("copies", "reshapes", "inert")
"""Traits of operators behind which an output means what it meant before."""

_ENDS: Mapping[str, Meaning] = {
    "Softmax": "probabilities",
    "LogSoftmax": "logits",
    "Sigmoid": "probabilities",
    "LpNormalization": "embedding",
}


AGREED = 0.1
"""Parents of one label set name the same column this much of the way from chance to always, at least."""


@dataclass(frozen=True, slots=True)
class OutputMeaning:
    """What one ``output`` of a network is, and ``why`` that is believed, for people."""

    output: str
    meaning: Meaning
    why: str
    guessed: bool = False


def asked_meanings(written: str | None, outputs: Sequence[str]) -> dict[str, Meaning]:
    """What ``--outputs`` says: one meaning for all outputs, or NAME=MEANING,... for some.

    Raises UsageError for a name that no output has, or a word that is no meaning.
    """
    found: dict[str, Meaning] = {}
    for part in [] if written is None else written.split(","):
        name, equals, word = part.strip().rpartition("=")
        meaning = next((each for each in MEANINGS if each == word), None)
        if meaning is None:
            raise UsageError(f"--outputs {written}: {word!r} is none of {', '.join(MEANINGS)}")
        if equals and name not in outputs:
            raise UsageError(f"--outputs {written}: there is no output {name!r}; there is {', '.join(outputs)}")
        found |= dict.fromkeys([name] if equals else outputs, meaning)
    return found


def meaning_of(
    value: ir.Value, answers: Sequence[Rows], *, asked: Meaning | None = None, vectors: bool = False
) -> OutputMeaning:
    """What an output is.

    Args:
        value: The output.
        answers: What each parent answers there, [positions, units], before an operator that ends the network.
        asked: What the user says it is.
        vectors: Whether the user gave class vectors that it is compared with.

    """
    known = known_meaning(value, asked=asked, vectors=vectors)
    if known is not None:
        return known
    name = str(value.name)
    width = answers[0].shape[1] if answers else 0
    if width <= 1:
        return OutputMeaning(name, "regression", "it is one number")
    return _guessed(name, answers)


def known_meaning(value: ir.Value, *, asked: Meaning | None = None, vectors: bool = False) -> OutputMeaning | None:
    """What an output is by what the user says or the graph shows; None where only its values can tell."""
    name = str(value.name)
    if asked is not None:
        return OutputMeaning(name, asked, "as --outputs says")
    if vectors:
        return OutputMeaning(name, "embedding", "it is compared with class vectors")
    end = ending(value)
    if end is not None and end.op_type in _ENDS:
        return OutputMeaning(name, _ENDS[end.op_type], f"it ends in {end.op_type}")
    if end is not None and _divides_by_length(end):
        return OutputMeaning(name, "embedding", "it is divided by its length")
    return None


def ending(value: ir.Value) -> ir.Node | None:
    """The last operator before an output that does more than give it another shape or type."""
    node = value.producer()
    while node is not None and has(node, *SHAPING) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def each_by_itself(value: ir.Value) -> bool:
    """Whether each unit of an output answers a question of its own: behind a Sigmoid, several may be right."""
    end = ending(value)
    return end is not None and end.op_type == "Sigmoid"


def _divides_by_length(node: ir.Node) -> bool:
    """Whether a node is x / |x|: a Div whose divisor comes from a norm of what it divides."""
    if node.op_type != "Div" or node.inputs[0] is None or node.inputs[1] is None:
        return False
    divided, maker = node.inputs[0], node.inputs[1].producer()
    while maker is not None and (has(maker, *SHAPING) or maker.op_type in ("Clip", "Max", "Add", "Sqrt")):
        maker = maker.inputs[0].producer() if maker.inputs[0] is not None else None
    if maker is None or maker.op_type not in {"ReduceL2", "ReduceSumSquare", "ReduceSum"}:
        return False
    source = maker.inputs[0]
    square = None if source is None else source.producer()
    return source is divided or (square is not None and divided in square.inputs)


def _guessed(name: str, answers: Sequence[Rows]) -> OutputMeaning:
    if all(map(is_direction, answers)):
        why = "its values have no column that stands out, as embeddings do"
        return OutputMeaning(name, "embedding", why, guessed=True)
    if 2 * sum(map(_tells_classes_apart, answers)) > len(answers) and _agree(answers):  # one may be damaged
        why = "in each sample one column stands out, and not always the same, as in logits"
        return OutputMeaning(name, "logits", why, guessed=True)
    return OutputMeaning(name, "features", "nothing in the graph or its values says more", guessed=True)


def _tells_classes_apart(rows: Rows) -> bool:
    """Whether most columns are the highest of some sample, and the highest stands out to the positive."""
    top = np.bincount(rows.argmax(axis=1), minlength=rows.shape[1])
    if (top > 0).mean() < min(0.5, len(rows) / (4 * rows.shape[1])):
        return False
    found = skewness(rows)
    return found is not None and (rows.shape[1] < 4 or found >= CODED)


def _agree(answers: Sequence[Rows]) -> bool:
    """Whether every two parents name the same column more often than their own habits alone would have it."""
    tops = [rows.argmax(axis=1) for rows in answers]
    width = answers[0].shape[1]
    for index, one in enumerate(tops):
        for other in tops[:index]:
            habits = [np.bincount(each, minlength=width) / len(each) for each in (one, other)]
            chance = float(habits[0] @ habits[1])
            if float(np.mean(one == other)) <= chance + AGREED * (1 - chance):
                return False
    return True
