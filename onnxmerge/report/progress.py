"""A progress bar on a terminal; silence in a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from onnxmerge.calibration.progress import Report
from onnxmerge.report.terminal import terminal
from onnxmerge.text import printable


@contextmanager
def progress_bar(title: str, console: Console | None = None) -> Iterator[Report]:
    """Show a bar on standard error while the block runs, and yield the function that moves it.

    Nothing at all is written where standard error is not a terminal.
    """
    console = console or terminal(error=True)
    if not console.is_terminal:
        yield _silent
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
    with bar:
        task = bar.add_task(printable(title), total=None)

        def report(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield report


def _silent(done: int, total: int | None) -> None:
    """The bar that is not there."""
