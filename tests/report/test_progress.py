"""The progress bar shows on a terminal only, and never on standard output."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from onnxmerge.report.progress import progress_bar


def test_silent_in_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("calibrating") as report:
        report(1, None)
        report(2, 2)
    assert capfd.readouterr() == ("", "")


def test_bar_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress_bar("calibrating", console) as report:
        report(3, 7)
    assert isinstance(console.file, io.StringIO)
    assert "calibrating" in console.file.getvalue()
    assert "3/7" in console.file.getvalue()
