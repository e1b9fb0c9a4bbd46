"""One task: which output of a model answers it, and what the right answer is for each label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["classification", "regression"]
Loss = Literal["absolute", "squared"]

ABSENT = -1
"""The label, and the row, of a sample that is not of a task."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is asked of a model.

    A *row* is one of the classes that a task tells apart; a classification gives each row a score and answers with
    the highest. Without ``vectors`` the scores are columns of an output (logits or probabilities); with ``vectors``
    [rows, width] they are cosines of the output with each vector, as with the text encoder of CLIP.

    Args:
        name: What tables call it.
        kind: Classification, or regression of numbers.
        row_of: The right row for each label; a sample with another label is not of this task. None: labels are rows.
        vectors: One vector for each row.
        output: Name of the output that answers. None suits a model with one output.
        columns: The columns of the output that are this task's, in the order of rows or targets. None: see `heads`.
        threshold: For an output of one column: the second of two classes is right above it (0.5 for a probability).
        target: Which arrays or columns of the label file are meant. None: see `Labels.pick`.
        loss: What the scaled score of a regression is made of.

    """

    name: str
    kind: Kind = "classification"
    row_of: Mapping[int, int] | None = None
    vectors: NDArray[np.float32] | None = None
    output: str | None = None
    columns: tuple[int, ...] | None = None
    threshold: float | None = None
    target: tuple[str, ...] | None = None
    loss: Loss = "squared"

    @property
    def classes(self) -> int | None:
        """How many rows there are, where the task says so itself."""
        if self.vectors is not None:
            return len(self.vectors)
        if self.columns is not None:
            return len(self.columns)
        return None if self.row_of is None else max(self.row_of.values()) + 1

    def rows(self, labels: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """The right row for each of ``labels`` [N]; -1 for those that are not of this task."""
        if self.row_of is None:
            return labels.astype(np.int64)
        return np.array([self.row_of.get(int(label), ABSENT) for label in labels], np.int64)
