"""Tasks in one line each: ``NAME=LABELS[@OUTPUT]``, as the command line and recipes take them."""

from __future__ import annotations

import re

from onnxmerge.errors import UsageError
from onnxmerge.evaluation.task import Task
from onnxmerge.text import shown

_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
REGRESSION = "regression"
MOST = 1_000_000
"""Labels in one range, at most: more classes than any output has columns."""


def parse_task(text: str) -> Task:
    """A task from ``low=0-4``, ``high=5,6,8-9@logits_b``, ``all=@logits``, ``depth=regression@depth``.

    Raises UsageError where it is none of these, or a label is there twice.
    """
    name, equals, rest = text.partition("=")
    labels, _, output = rest.partition("@")
    if not name or not equals:
        raise UsageError(f"task {shown(text)}: expected NAME=LABELS or NAME=LABELS@OUTPUT, such as low=0-4@logits_a")
    if labels == REGRESSION:
        return Task(name, kind="regression", output=output or None)
    classes = [label for part in labels.split(",") for label in _labels(part, text)] if labels else []
    if len(set(classes)) < len(classes):
        raise UsageError(f"task {shown(text)}: a label is there twice")
    row_of = {label: row for row, label in enumerate(classes)} or None
    return Task(name, row_of=row_of, output=output or None)


def _labels(part: str, text: str) -> range:
    found = _RANGE.fullmatch(part.strip())
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if last < first:
        raise UsageError(
            f"task {shown(text)}: {shown(part)} is no label or range of labels such as 0-4 "
            f"(or {REGRESSION!r} for a regression)"
        )
    if last - first >= MOST:
        raise UsageError(f"task {shown(text)}: {shown(part)} are more than {MOST:,} labels; name those that there are")
    return range(first, last + 1)
