"""What a method for models of one pretraining is: its rule, its source, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Generic, Literal, TypeVar

from onnxmerge.merging.task_vectors.options import MethodOptions, describe, flag
from onnxmerge.merging.task_vectors.vectors import TaskVectors
from onnxmerge.types import Floats

O = TypeVar("O", bound=MethodOptions)  # noqa: E741 - the options of a method

Origin = Literal["base", "base or zero", "mean"]
"""What task vectors start from: the base, the base where one is given, or the mean of the models."""


@dataclass(frozen=True, slots=True)
class TaskVectorMethod(Generic[O]):
    """A method that puts task vectors together: what ``rule`` makes of those of one tensor is added to the ``origin``.

    ``source`` is the paper. ``matrices``: the rule takes the matrices of linear layers alone, [models, out, in] however
    they are stored, and all other tensors get the mean. ``models`` is the number that it takes, where not any.
    """

    name: str
    summary: str
    source: str
    rule: Callable[[TaskVectors, O], Floats]
    options: type[O]
    matrices: bool = False
    origin: Origin = "base"
    models: int | None = None

    @property
    def needs_base(self) -> bool:
        """Whether there is nothing to be done without the model that all others were fine-tuned from."""
        return self.origin == "base"

    @property
    def takes_base(self) -> bool:
        """Whether that model changes anything."""
        return self.origin != "mean"

    @property
    def defaults(self) -> str:
        """The method's own options with their values by default, as the command line has them."""
        found: list[Any] = [each for each in fields(self.options) if each.default not in (None, (), 0.0)]
        return " ".join(f"{flag(each.name)} {_plain(each.default)}" for each in found)

    @property
    def option_names(self) -> tuple[str, ...]:
        """What its own options are called in Python and in recipes."""
        return tuple(describe(self.options))


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
