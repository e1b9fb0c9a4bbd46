"""The reference of the command line as a page of Markdown: every command and option, as click knows them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from onnxmerge.cli.commands import COMMANDS
from onnxmerge.cli.main import commands

INTRODUCTION = """# The command line

Made from the commands themselves: what `onnxmerge COMMAND --help` prints.
"""


def page() -> str:
    """All of it."""
    top = click.Context(commands, info_name="onnxmerge")
    parts = [INTRODUCTION, _paragraphs(commands.help), *_options(commands, top)]
    for name in COMMANDS:
        command = commands.get_command(top, name)
        if command is None:
            raise ValueError(f"the command {name} is listed and not there")
        context = click.Context(command, parent=top, info_name=name)
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        parts += [f"## {name}\n", f"```text\n{usage}\n```\n", _paragraphs(command.help), *_options(command, context)]
        if command.epilog:
            parts.append(f"```text\n{inspect.cleandoc(command.epilog).replace(chr(8), '').strip()}\n```\n")
    return "\n".join(parts)


def _paragraphs(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("\b\n", "").replace("\b", "") + "\n"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    """The table of the options, each with what click adds: its default and the numbers that it takes."""
    yield "| option | meaning |\n|---|---|"
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):  # an argument stands in the usage
            names, told = record
            yield f"| {_names(names)} | {_cell(told)} |"
    yield ""


def _names(written: str) -> str:
    """The names and values of an option, each of many values by itself, where a line may break."""
    before, _, choices = written.partition(" [")
    values = f" {', '.join(f'`{value}`' for value in choices.rstrip(']').split('|'))}" if choices else ""
    return f"`{before}`{values}"  # in code, a bar does not end a cell


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
