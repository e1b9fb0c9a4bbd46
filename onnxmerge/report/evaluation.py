"""Scores of models as tables: accuracies in percent, and errors of regressions.

After a ± stands how far the farther end of the 95% interval is; where a terminal is too narrow for that, it is left to
the JSON.
"""

from __future__ import annotations

from rich.measure import Measurement
from rich.table import Table

from onnxmerge.api.evaluation_result import EvaluationResult
from onnxmerge.api.score_table import ScoreTable, accuracies, regressions
from onnxmerge.report.terminal import terminal

_ANY = 10_000
"""Columns of a terminal that is wide enough for any table."""

_NAME = 20
"""Columns into which any name may be folded."""


def print_evaluation(result: EvaluationResult, title: str = "evaluation") -> None:
    """One table of accuracies and one of regressions, as there are tasks of the sort.

    Headings are lines of their own: a table's would be folded to its width, and that of one model is narrow.
    """
    console, kinds = terminal(), {task.kind for task in result.tasks}
    if "classification" in kinds:
        scores = accuracies(result)
        full, names = _table(scores), max(len(row[0]) for row in scores.rows)
        wide = Measurement.get(console, console.options.update_width(_ANY), full).maximum
        fits = wide - max(names - _NAME, 0) <= console.width
        console.say(f"{title}: accuracy on {result.samples} samples, %{' (± 95% interval)' if fits else ''}")
        console.print(full if fits else _table(accuracies(result, intervals=False), wraps=True))
        if not fits:
            console.say("note  the terminal is too narrow for 95% intervals: --json has them")
    if "regression" in kinds:
        console.say(f"{title}: errors on {result.samples} samples (± 95% interval)")
        console.print(_table(regressions(result), texts=2, wraps=True))
    for note in result.notes:
        console.say(f"note  {note}")


def _table(scores: ScoreTable, texts: int = 1, *, wraps: bool = False) -> Table:
    """For a terminal; the first so many columns are text, all others numbers."""
    table = Table(box=None)
    for index, head in enumerate(scores.heads):
        number = index >= texts
        table.add_column(head, justify="right" if number else "left", no_wrap=number and not wraps)
    for row in scores.rows:
        table.add_row(*row)
    return table
