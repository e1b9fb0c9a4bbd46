"""The options that methods for models of one pretraining have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from onnxmerge.contracts import NumberOrAuto as Scale
from onnxmerge.contracts import Options, described, is_number, number
from onnxmerge.errors import UsageError
from onnxmerge.text import shown

__all__ = ["DENSITY", "SCALE", "ParameterRule", "Scale", "Scaled"]

SCALE = described("Multiplies what is added to the base", auto=True)
"""What the papers call lambda or alpha."""

DENSITY = described("Share of what each model learnt that is kept", least=0.0, most=1.0, above=True)


@dataclass(frozen=True, slots=True)
class ParameterRule:
    """The scale ``value`` of those initializers whose names ``filter``, a shell pattern, matches."""

    filter: str
    value: float

    def __post_init__(self) -> None:
        if not is_number(self.value):
            raise UsageError(f"parameters {self.filter!r}: expected a finite number, found {shown(self.value)}")

    def __str__(self) -> str:
        return f"{self.filter} {self.value:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled(Options):
    """Options of a method that multiplies what it adds to the base.

    The first linear layer gets 1 - ``depth`` times the ``scale``, the last 1 + ``depth`` times, those between in even
    steps (early layers are shared by the tasks; in the manner of LARV, arXiv 2602.09413). ``parameters`` are scales of
    single initializers whatever their depth; of those that name one the last holds.
    """

    scale: Scale = field(default=1.0, metadata=SCALE)
    depth: Scale = field(
        default=0.0, metadata=described("How much more last layers count than first ones", least=-1, most=1, auto=True)
    )
    parameters: tuple[ParameterRule, ...] = field(
        default=(), metadata=described("Scales of single initializers, by pattern", written=True)
    )

    def scale_of(self, name: str, depth: float = 0.5) -> float:
        """The scale of an initializer that lies so deep, from 0 to 1. Raises UsageError while it is to be searched."""
        rule = self.rule_for(name)
        if rule is not None:
            return rule.value
        scale, more = number(self.scale, "scale"), number(self.depth, "depth")
        return scale * (1 + more * (2 * depth - 1)) if more else scale

    def rule_for(self, name: str) -> ParameterRule | None:
        """The rule that holds for an initializer; None where there is none."""
        return next((rule for rule in reversed(self.parameters) if fnmatchcase(name, rule.filter)), None)
