"""A progress bar on a terminal; in a pipe, a line for a stage that takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from onnxmerge.calibration.progress import Report
from onnxmerge.report.terminal import complain, terminal
from onnxmerge.text import printable

LONG = 30.0
"""Seconds from which on a stage is worth a line."""


@contextmanager
def long_stage(name: str, console: Console | None = None) -> Iterator[None]:
    """Where standard error is no terminal, say there that a stage is taking long, and when it has ended.

    A job in CI that prints nothing for minutes looks as if it hung.
    """
    console = console or terminal(error=True)
    if console.is_terminal:
        yield
        return
    started = time.monotonic()
    told = threading.Timer(LONG, complain, (f"{name}: takes longer than {LONG:.0f} s",))
    told.daemon = True
    told.start()
    try:
        yield
    finally:
        told.cancel()
    if (seconds := time.monotonic() - started) > LONG:
        complain(f"{name}: done in {seconds:.0f} s")


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
