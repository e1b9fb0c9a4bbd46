"""The methods for models of one pretraining, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxmerge.merging.task_vectors.dare import dare
from onnxmerge.merging.task_vectors.task_arithmetic import task_arithmetic
from onnxmerge.merging.task_vectors.ties import ties
from onnxmerge.merging.task_vectors.vectors import Rule, Settings


@dataclass(frozen=True, slots=True)
class TaskVectorMethod:
    """A method that adds task vectors to a base: its rule, and the settings that its users start from.

    ``density`` is None where nothing is dropped.
    """

    name: str
    summary: str
    rule: Rule
    scale: float
    density: float | None = None

    def settings(self, scale: float | None, density: float | None, seed: int) -> Settings:
        """What the user says, and the method's own values for what is left open."""
        kept = self.density if density is None else density
        return Settings(self.scale if scale is None else scale, 1.0 if kept is None else kept, seed)


TASK_VECTORS: Mapping[str, TaskVectorMethod] = {
    method.name: method
    for method in (
        TaskVectorMethod("task-arithmetic", "add up what each model learnt (task arithmetic)", task_arithmetic, 0.4),
        TaskVectorMethod("ties", "the largest changes that agree in sign (TIES)", ties, 1.0, 0.2),
        TaskVectorMethod("dare", "random changes, scaled up, added up (DARE)", dare, 0.4, 0.5),
    )
}
