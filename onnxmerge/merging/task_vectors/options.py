"""The options of the methods for models of one pretraining: each method has a small dataclass of its own.

What an option is called, says and may be stands in its field, so that the command line, recipes and docs can be made
of it, and a value that cannot be meant is refused wherever it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias, TypeGuard

from onnxmerge.errors import UsageError
from onnxmerge.text import shown

AUTO: Literal["auto"] = "auto"
Scale: TypeAlias = float | Literal["auto"]


@dataclass(frozen=True, slots=True)
class Described:
    """What there is to say of an option: a number above or from ``least`` to ``most``, or one of ``words``.

    ``auto``: it may be left to a search. ``written``: only recipes and Python have it, for it is more than a word.
    ``optional``: it may be None, where it has no effect.
    """

    help: str
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    auto: bool = False
    words: tuple[str, ...] = ()
    written: bool = False
    optional: bool = False

    @property
    def expected(self) -> str:
        """In words."""
        if self.words:
            return f"one of {', '.join(self.words)}"
        bounds = [f"{'above' if self.above else 'of at least'} {self.least:g}"] if self.least > -math.inf else []
        bounds += [f"at most {self.most:g}"] if self.most < math.inf else []
        return f"a finite number {' and '.join(bounds)}".strip() + (", or auto" if self.auto else "")

    def holds(self, value: object) -> bool:
        """Whether a value can be meant."""
        if value is None:
            return self.optional
        if self.words or value == AUTO:
            return value in self.words or (self.auto and value == AUTO)
        return _is_number(value) and self.least <= value <= self.most and not (self.above and value == self.least)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def described(help: str, **bounds: Any) -> Mapping[str, Described]:  # noqa: A002 - as click has it
    """The ``metadata`` of a field that is an option."""
    return {"described": Described(help, **bounds)}


SCALE = described("Multiplies what is added to the base", auto=True)
"""What the papers call lambda or alpha."""

DENSITY = described("Share of what each model learnt that is kept", least=0.0, most=1.0, above=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodOptions:
    """A method's own options. Raises UsageError for a value that cannot be meant."""

    def __post_init__(self) -> None:
        for name, told in describe(type(self)).items():
            value = getattr(self, name)
            if not told.written and not told.holds(value):
                raise UsageError(f"{flag(name)}: expected {told.expected}, found {shown(value)}")


@dataclass(frozen=True, slots=True)
class ParameterRule:
    """The scale ``value`` of those initializers whose names ``filter``, a shell pattern, matches."""

    filter: str
    value: float

    def __post_init__(self) -> None:
        if not _is_number(self.value):
            raise UsageError(f"parameters {self.filter!r}: expected a finite number, found {shown(self.value)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled(MethodOptions):
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
        if isinstance(self.scale, str):
            raise UsageError("scale is to be searched: no value was chosen yet")
        if isinstance(self.depth, str):
            raise UsageError("depth is to be searched: no value was chosen yet")
        return self.scale * (1 + self.depth * (2 * depth - 1)) if self.depth else self.scale

    def rule_for(self, name: str) -> ParameterRule | None:
        """The rule that holds for an initializer; None where there is none."""
        return next((rule for rule in reversed(self.parameters) if fnmatchcase(name, rule.filter)), None)


def describe(kind: type[MethodOptions]) -> Mapping[str, Described]:
    """The options of a method by name, in order."""
    return {each.name: each.metadata["described"] for each in fields(kind)}


def flag(name: str) -> str:
    """An option's name as the command line has it."""
    return f"--{name.replace('_', '-')}"
