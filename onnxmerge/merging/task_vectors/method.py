"""What a method for models of one pretraining is: its rule, and what it starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from onnxmerge.contracts import Contract, Need, O
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats

Origin = Literal["base", "mean"]
"""What task vectors start from: the base (zero where none is given), or the mean of the models."""

FLOAT64 = 8
COPIES, TOGETHER, SQUARES = 8, 3, 4
"""Arrays that a rule holds at once: of a tensor's size, whatever the number of models; of each model; and squares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskVectorMethod(Contract[O]):
    """A method that puts task vectors together: what ``rule`` makes of those of one tensor is added to the ``origin``.

    ``matrices``: the rule takes the matrices of linear layers alone, [models, out, in] however they are stored, and all
    other tensors get the mean. ``together``: it holds those of all models at once. ``squares``: it forms matrices
    [in, in]. ``models`` is the number that it takes, where not any. One that needs labels is given
    those models alone that labels speak for (``pipeline.selection.ingredients``).
    """

    needs: tuple[Need, ...] = ("base",)
    rule: Callable[[TaskVectors, O], Floats]
    matrices: bool = False
    together: bool = False
    squares: bool = False
    origin: Origin = "base"
    models: int | None = None

    def takes(self, rows: int, columns: int, models: int) -> int:
        """About how many bytes it takes to put the task vectors of a matrix together (of another tensor: of a row)."""
        copies = COPIES + (TOGETHER * models if self.together else 0)
        return FLOAT64 * (rows * columns * copies + (SQUARES * columns**2 if self.squares and rows > 1 else 0))

    @property
    def takes_base(self) -> bool:
        """Whether that model changes anything."""
        return self.origin != "mean"
