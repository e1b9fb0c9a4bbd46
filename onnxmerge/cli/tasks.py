"""Tasks on the command line: ``--task NAME=LABELS[@OUTPUT]``."""

from __future__ import annotations

import re

import click

from onnxmerge.evaluation.task import Task

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
REGRESSION = "regression"


def parse_tasks(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[Task, ...]:
    """Tasks from values such as ``low=0-4``, ``high=5,6,8-9@logits_b``, ``all=@logits``, ``depth=regression@depth``."""
    return tuple(map(_task, values))


def _task(value: str) -> Task:
    name, equals, rest = value.partition("=")
    labels, _, output = rest.partition("@")
    if not name or not equals:
        raise click.BadParameter(f"{value!r}: expected NAME=LABELS or NAME=LABELS@OUTPUT, such as low=0-4@logits_a")
    if labels == REGRESSION:
        return Task(name, kind="regression", output=output or None)
    classes = [label for part in labels.split(",") for label in _labels(part, value)] if labels else []
    if len(set(classes)) < len(classes):
        raise click.BadParameter(f"{value!r}: a label is there twice")
    row_of = {label: row for row, label in enumerate(classes)} or None
    return Task(name, row_of=row_of, output=output or None)


def _labels(part: str, value: str) -> range:
    found = _RANGE.fullmatch(part.strip())
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if last < first:
        raise click.BadParameter(
            f"{value!r}: {part!r} is no label or range of labels such as 0-4 (or {REGRESSION!r} for a regression)"
        )
    return range(first, last + 1)
