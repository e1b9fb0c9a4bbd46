"""Which commands there are, and where; each is imported when it is called, so that help and version come at once."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import click


@dataclass(frozen=True, slots=True)
class Entry:
    """A command by the module and the name it is defined under, and what the list of commands says of it."""

    module: str
    name: str
    help: str


COMMANDS = {
    "run": Entry("onnxmerge.cli.run", "run", "Merge models of one structure into one."),
    "plan": Entry("onnxmerge.cli.plan", "plan", "Forecast a merge in seconds: what of the models fits into one."),
    "eval": Entry("onnxmerge.cli.evaluate", "evaluate", "Score models on labelled data, side by side."),
    "inspect": Entry(
        "onnxmerge.cli.inspect", "inspect", "Show which units are interchangeable, and which not and why."
    ),
    "report": Entry("onnxmerge.cli.report", "report", "Show as a page how a model was merged, and what its units are."),
    "check": Entry("onnxmerge.cli.check", "check", "Hold a model to gates, for CI and before it ships."),
    "landscape": Entry("onnxmerge.cli.landscape", "landscape", "Show the losses around a merge and its parents."),
    "compare": Entry("onnxmerge.cli.compare", "compare", "Say how two files of one network differ."),
    "permute": Entry("onnxmerge.cli.permute", "permute", "Permute every group of a model: the function is the same."),
    "fold": Entry("onnxmerge.cli.fold", "fold", "Make low-rank adapters (LoRA) a part of the weights."),
    "doctor": Entry("onnxmerge.cli.doctor", "doctor", "Say what is installed here, for a report of a fault."),
    "demo": Entry("onnxmerge.cli.demo", "demo", "Merge two small networks that ship with the package."),
}


class Commands(click.Group):
    """The commands of ``COMMANDS``, in that order."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own signature
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - the same
        """One of them, imported now; None for a name that is none of them."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(import_module(entry.module), entry.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - the same
        """List them without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])
