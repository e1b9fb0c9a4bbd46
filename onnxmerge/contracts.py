"""What everything that can be chosen says of itself: methods that match, task vectors, refinements.

Each is one module of a package, with a METHOD in it: its name, what it does and needs, and a small dataclass of its own
options. What an option is called, says and may be stands in its field, so that the command line, recipes and docs can
be made of it, and a value that cannot be meant is refused wherever it comes from.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeAlias, TypeGuard, TypeVar, get_type_hints

from onnxmerge.errors import UsageError
from onnxmerge.text import shown

AUTO: Literal["auto"] = "auto"
NumberOrAuto: TypeAlias = float | Literal["auto"]
Need: TypeAlias = Literal["weights", "activations", "own data", "base", "labels"]


@dataclass(frozen=True, slots=True)
class Described:
    """What there is to say of an option: a number above or from ``least`` to ``most``, or one of ``words``.

    ``auto``: it may be left to a search, which tries the numbers ``tried`` and, of one method, the two ends. A value of
    ``instead`` is refused: another method stands for it. ``alone``: it is for who chose the method, no search has it.
    ``written``: only recipes and Python have it, for it is more than a word. ``optional``: it may be None, where it has
    no effect.
    """

    help: str
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    auto: bool = False
    words: tuple[str, ...] = ()
    written: bool = False
    optional: bool = False
    alone: bool = False
    tried: tuple[float, ...] = ()
    instead: Mapping[float, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def expected(self) -> str:
        """In words."""
        if self.words:
            return f"one of {', '.join(self.words)}"
        if math.isfinite(self.least) and math.isfinite(self.most) and not self.above:
            return f"a number from {self.least:g} to {self.most:g}" + (", or auto" if self.auto else "")
        bounds = [f"{'above' if self.above else 'of at least'} {self.least:g}"] if self.least > -math.inf else []
        bounds += [f"at most {self.most:g}"] if self.most < math.inf else []
        return f"a finite number {' and '.join(bounds)}".strip() + (", or auto" if self.auto else "")

    def holds(self, value: object) -> bool:
        """Whether a value can be meant."""
        if value is None:
            return self.optional
        if self.words or value == AUTO:
            return value in self.words or (self.auto and value == AUTO)
        return is_number(value) and self.least <= value <= self.most and not (self.above and value == self.least)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: NumberOrAuto, name: str) -> float:
    """An option's value. Raises UsageError as long as it is to be searched."""
    if isinstance(value, str):
        raise UsageError(f"{name} is to be searched: no value was chosen yet")
    return value


def described(help: str, **bounds: Any) -> Mapping[str, Described]:  # noqa: A002 - as click has it
    """The ``metadata`` of a field that is an option."""
    return {"described": Described(help, **bounds)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a method has of its own; by itself nothing. Raises UsageError for a value that cannot be meant."""

    def __post_init__(self) -> None:
        for name, told in describe(type(self)).items():
            value = getattr(self, name)
            if told.written:
                continue
            if not told.holds(value):
                raise UsageError(f"{flag(name)}: expected {told.expected}, found {shown(value)}")
            if value in told.instead:
                raise UsageError(f"{flag(name)} {value:g} is what method {told.instead[value]} does; choose that")


def describe(kind: type[Options]) -> Mapping[str, Described]:
    """The options of a method by name, in order."""
    return {each.name: each.metadata["described"] for each in fields(kind)}


def flag(name: str) -> str:
    """An option's name as the command line has it."""
    return f"--{name.replace('_', '-')}"


O = TypeVar("O", bound=Options)  # noqa: E741 - the options of a method


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract(Generic[O]):
    """What can be chosen by its ``name``: ``source`` is the paper, ``needs`` what there is nothing to be done without.

    Of equals the one of lower ``rank`` comes first in lists and wins in searches.
    """

    name: str
    summary: str
    source: str
    options: type[O]
    needs: tuple[Need, ...] = ()
    rank: int = 100

    @property
    def option_names(self) -> tuple[str, ...]:
        """What its own options are called in Python and in recipes."""
        return tuple(describe(self.options))

    @property
    def defaults(self) -> str:
        """Its own options with their values by default, as the command line has them."""
        found: list[Any] = [each for each in fields(self.options) if each.default not in (None, (), 0.0)]
        return " ".join(f"{flag(each.name)} {_plain(each.default)}" for each in found)

    @property
    def needed(self) -> str:
        """What it needs beside the models, as the command line calls it."""
        return in_words(self.needs)

    def own(self, given: Mapping[str, Any]) -> O:
        """Its options, with those of ``given`` that it has. Raises UsageError for a value that cannot be meant."""
        return self.options(**{name: value for name, value in given.items() if name in self.option_names})


C = TypeVar("C", bound=Contract[Any])


def registered(package: str, _kind: type[C]) -> Mapping[str, C]:
    """What the modules of a package call METHOD, by name, in the order of their ranks and names."""
    names = [each.name for each in pkgutil.iter_modules(import_module(package).__path__)]
    found: list[C] = [import_module(f"{package}.{name}").METHOD for name in names]
    return {each.name: each for each in sorted(found, key=lambda each: (each.rank, each.name))}


@dataclass(frozen=True, slots=True)
class OwnOption:
    """An option that some have of their own: what it says, its type, and its value by default in the first of them."""

    described: Described
    hint: Any
    default: Any
    takers: tuple[str, ...]


def own_options(contracts: Iterable[Contract[Any]]) -> dict[str, OwnOption]:
    """Every option that some have of their own, and who has it. One that may be "auto" goes before one that may not."""
    found: dict[str, OwnOption] = {}
    for contract in contracts:
        hints = get_type_hints(contract.options)
        for each in fields(contract.options):
            own = OwnOption(each.metadata["described"], hints[each.name], each.default, ())
            known = found.get(each.name, own)
            kept = own if own.described.auto and not known.described.auto else known
            takers = (*known.takers, contract.name)
            found[each.name] = OwnOption(kept.described, kept.hint, known.default, takers)
    return found


def in_words(needs: Iterable[Need]) -> str:
    """What is needed beside the models, as the command line calls it."""
    words = {"activations": "--calib", "own data": "--calib-of", "base": "--base", "labels": "--labels"}
    return ", ".join(word for need, word in words.items() if need in {*needs})


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
