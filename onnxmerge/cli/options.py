"""Options that several commands share, and their parsing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from onnxmerge.calibration.known_inputs import known, parse
from onnxmerge.calibration.sources import BATCH_SIZE
from onnxmerge.cli.files import InputFile
from onnxmerge.errors import UsageError
from onnxmerge.files import named
from onnxmerge.memory import default_limit, memory_limit, parse_size, readable
from onnxmerge.model.runtimes import CHOICES
from onnxmerge.model.sample import SampleInput
from onnxmerge.text import shown

F = TypeVar("F", bound=Callable[..., Any])

LEAST_MEMORY = 100_000_000
"""Bytes of --max-memory below which native libraries end the process where they find no memory for themselves."""


def model_options(command: F) -> F:
    """``--operators``, ``--provider``, ``--max-memory``: what helps a model to run and to be typed."""
    operators = click.option(
        "--operators",
        type=InputFile("the operators file"),
        callback=_as_path,
        help="Signatures of operators of your own (YAML, see docs/operators.md).",
    )
    return operators(provider_option(command))


def measuring_options(command: F) -> F:
    """``--seed``, ``--samples`` and ``--batch-size``: what of the calibration data is measured, and how."""
    seed = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
    samples = click.option("--samples", type=click.IntRange(min=1), help="Use so many calibration samples.")
    return seed(samples(batch_size_option(command)))


def batch_size_option(command: F) -> F:
    """``--batch-size``: samples that are read at once."""
    return click.option("--batch-size", type=click.IntRange(min=1), default=BATCH_SIZE, show_default=True)(command)


def _as_path(_context: click.Context, _option: click.Parameter, value: str | None) -> Path | None:
    return None if value is None else Path(value)


def scripts_option(command: F) -> F:
    """``--allow-scripts``: a file that comes from somebody else may not run a program unasked."""
    return click.option(
        "--allow-scripts",
        is_flag=True,
        help="Let a recipe or a configuration name script.py:function for data, which runs it.",
    )(command)


def require_allowed(context: click.Context, file: str, data: str | None) -> None:
    """Raise UsageError where a ``file`` names a script for its ``data`` and nobody allowed it."""
    from onnxmerge.calibration.readers import is_script

    if data is not None and is_script(data) and not context.params["allow_scripts"]:
        raise UsageError(
            f"{named(file)}: {shown(data)} is a script, which would be run: look at it, and say --allow-scripts"
        )


def provider_option(command: F) -> F:
    """``--provider``, ``--max-memory``: where models run, and what they may take there."""
    provider = click.option(
        "--provider",
        type=click.Choice(CHOICES),
        default="auto",
        show_default=True,
        help="Where models run; auto takes a GPU where one works.",
    )
    return provider(memory_option(command))


def memory_option(command: F) -> F:
    """``--max-memory``, in force as long as the command runs."""
    return click.option(
        "--max-memory",
        metavar="SIZE",
        callback=_limit_memory,
        expose_value=False,
        help="Memory that models and data may take (4GB); by default half of what is free.",
    )(command)


def _limit_memory(context: click.Context, _option: click.Parameter, value: str | None) -> None:
    try:
        if value is not None and parse_size(value) < LEAST_MEMORY:
            raise UsageError(f"{value}: what runs models takes {readable(LEAST_MEMORY)} by itself; allow more")
        limit = default_limit() if value is None else memory_limit(parse_size(value))
    except UsageError as error:
        raise click.BadParameter(str(error)) from error
    context.with_resource(limit)


def sample_options(command: F) -> F:
    """``--input NAME:SHAPE`` or ``NAME:file.npy``, repeatable."""
    return click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="NAME:SHAPE|NAME:FILE.npy",
        callback=_parse_inputs,
        help="Shape (1,3,224,224) or value of an input, where the model does not say enough.",
    )(command)


def _parse_inputs(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        try:
            name, given = parse(value)
        except UsageError as error:
            raise click.BadParameter(str(error)) from error
        if given.endswith(".npy"):
            InputFile("the value of an input").convert(given, option, context)
        found[name] = given
    return found


def known_inputs(texts: Mapping[str, str]) -> dict[str, SampleInput]:
    """Shapes and values of inputs, as options or a recipe give them. Raises InputError where a file cannot be read."""
    return {name: known(given) for name, given in texts.items()}
