"""Options that say what labels mean: ``--task``, ``--tasks``, ``--regression``, ``--vectors``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from onnxmerge.cli.files import InputFile
from onnxmerge.errors import UsageError
from onnxmerge.evaluation.notation import REGRESSION, parse_task
from onnxmerge.evaluation.task import Task

F = TypeVar("F", bound=Callable[..., Any])

WrittenTasks = str | tuple[str, ...] | None
"""A task file, or tasks in one line each (see `notation`); None where nothing is said."""

TASK_OPTIONS = ("flags", "file", "regression")


def task_options(command: F) -> F:
    """Add the options; `take_tasks` takes the values of all but ``--vectors`` out of the settings again."""
    for option in (
        click.option(
            "--vectors",
            type=InputFile("the class vectors"),
            metavar="FILE",
            help="Class vectors (.npy, .npz) that outputs are compared with by cosine.",
        ),
        click.option("--regression", is_flag=True, help="One task: the output predicts the numbers in the label file."),
        click.option(
            "--tasks",
            "file",
            type=InputFile("the task file"),
            metavar="FILE",
            help="Tasks from a JSON or YAML file (docs/evaluating.md).",
        ),
        click.option(
            "--task",
            "flags",
            multiple=True,
            metavar="NAME=LABELS[@OUTPUT]",
            help="A task and its labels, such as low=0-4; repeatable. NAME=regression@OUTPUT for numbers.",
        ),
    ):
        command = option(command)
    return command


def take_tasks(settings: dict[str, Any]) -> WrittenTasks:
    """Remove the options from ``settings``, and return what they say. Raises UsageError where they contradict."""
    flags, file, regression = (settings.pop(name, None) for name in TASK_OPTIONS)
    if sum(map(bool, (flags, file, regression))) > 1:
        raise UsageError("tasks come from --task, from --tasks FILE or are one --regression, not from several of these")
    if regression:
        return (f"values={REGRESSION}",)
    return tuple(flags) if flags else file


def read_tasks(written: WrittenTasks) -> tuple[Task, ...] | str | None:
    """Tasks as ``evaluate`` and ``merge`` take them. Raises UsageError where one cannot be read."""
    return tuple(map(parse_task, written)) if isinstance(written, tuple) else written
