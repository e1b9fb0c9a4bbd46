"""The own options of methods and refinements as options of the command line, and the lists of both in its help."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from onnxmerge.contracts import AUTO, Contract, Described, flag
from onnxmerge.errors import UsageError
from onnxmerge.merging.refinements.methods import REFINEMENTS
from onnxmerge.merging.repair.repairs import REPAIRS
from onnxmerge.merging.task_vectors.methods import TASK_VECTORS
from onnxmerge.pipeline.methods import METHODS, OWN_OPTIONS
from onnxmerge.pipeline.options import CHOICES, MergeOptions, widths_of_groups

F = TypeVar("F", bound=Callable[..., Any])

FEW = 4
"""So many methods are named beside an option that they have; of more, the list of methods says it."""


class NumberOrAuto(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A number, or "auto"."""

    name = "number|auto"

    def __init__(self, described: Described) -> None:
        self.described = described

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Convert one value."""
        try:
            found = AUTO if value == AUTO else float(value)
        except ValueError:
            found = math.nan
        if not self.described.holds(found):
            self.fail(f"{value!r}: expected {self.described.expected}", param, ctx)
        return found


class WidthOption(click.ParamType):  # type: ignore[type-arg]  # the same
    """One width for all groups, or widths of single ones; "auto" where they may be found."""

    name = "width"

    def __init__(self, *, auto: bool) -> None:
        self.words = (AUTO,) if auto else ()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Convert one value."""
        if value in self.words or not isinstance(value, str):
            found: float | str = value
            return found
        try:
            widths = [(value, float(value))] if "=" not in value else widths_of_groups(value)
        except (ValueError, UsageError):
            widths = []
        if not widths or not all(width > 0 for _, width in widths):
            told = " or ".join(["a number above 0", "GROUP=NUMBER,... such as p0=1.5,p2=2", *self.words])
            self.fail(f"{value!r}: expected {told}", param, ctx)
        return value if "=" in value else widths[0][1]

    def shell_complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The words that it may be."""
        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


def own_method_options(command: F) -> F:
    """An option for each that something has of its own."""
    for name, own in reversed([*OWN_OPTIONS.items()]):
        told, takers = own.described, own.takers
        if not told.written:
            of = ", ".join(takers) if len(takers) <= FEW else f"{len(takers)} methods with defaults of their own"
            command = click.option(flag(name), type=_kind(told), help=f"{told.help} ({of}).")(command)
    return command


def word_option(name: str, told: str) -> Callable[[F], F]:
    """An option that every merge has, one of some words."""
    kind = click.Choice(CHOICES[name])
    return click.option(flag(name), type=kind, default=getattr(MergeOptions(), name), show_default=True, help=told)


def _kind(described: Described) -> click.ParamType:  # type: ignore[type-arg]  # the same
    if described.words:
        return click.Choice(described.words)
    if described.auto:
        return NumberOrAuto(described)
    least, most = (each if math.isfinite(each) else None for each in (described.least, described.most))
    return click.FloatRange(least, most, min_open=described.above)


def base_methods() -> str:
    """The methods that --base is for, in short."""
    return ", ".join(name for name, method in TASK_VECTORS.items() if method.takes_base)


LISTED: Mapping[str, Mapping[str, Contract[Any]]] = {
    "Methods": METHODS,
    "Refinements": REFINEMENTS,
    "Repairs": REPAIRS,
}


def listed() -> str:
    """What can be chosen, a line each: what it does, needs and has of its own, for the end of the help."""
    width = max(map(len, METHODS))
    lines = []
    for title, contracts in LISTED.items():
        lines += ["", "\b", f"{title}:"]
        for each in contracts.values():
            lines.append(f"  {each.name:{width}}  {each.summary}{f'; needs {each.needed}' if each.needed else ''}")
            lines += [f" {'':{width}}  [{each.defaults}]"] if each.defaults else []
    return "\n".join(lines[1:])
