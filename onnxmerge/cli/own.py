"""The options that methods have of their own, as options of the command line: made of the registry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from onnxmerge.merging.task_vectors.options import AUTO, Described, flag
from onnxmerge.merging.task_vectors.registry import TASK_VECTORS, own_options

F = TypeVar("F", bound=Callable[..., Any])

FEW = 4
"""So many methods are named beside an option that they have; of more, the list of methods says it."""


class NumberOrAuto(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A number, or "auto"."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Convert one value."""
        if value == AUTO:
            return AUTO
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r}: expected a number, or auto", param, ctx)


def own_method_options(command: F) -> F:
    """An option for each that some method has of its own."""
    for name, (described, methods) in reversed(list(own_options().items())):
        if not described.written:
            told = ", ".join(methods) if len(methods) <= FEW else f"{len(methods)} methods with defaults of their own"
            command = click.option(flag(name), type=_kind(described), help=f"{described.help} ({told}).")(command)
    return command


def _kind(described: Described) -> click.ParamType:  # type: ignore[type-arg]  # the same
    if described.words:
        return click.Choice(described.words)
    if described.auto:
        return NumberOrAuto()
    least, most = (each if math.isfinite(each) else None for each in (described.least, described.most))
    return click.FloatRange(least, most, min_open=described.above)


def base_methods() -> str:
    """The methods that --base is for, in short."""
    return ", ".join(name for name, method in TASK_VECTORS.items() if method.takes_base)
