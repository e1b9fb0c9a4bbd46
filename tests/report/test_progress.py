"""The progress bar shows on a terminal only, and never on standard output."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from onnxmerge.report import progress
from onnxmerge.report.progress import long_stage, progress_bar


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


def test_a_stage_that_takes_long_is_told_in_a_pipe(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LONG", 0.0)
    with long_stage("certify"):
        time.sleep(0.1)
    found = capfd.readouterr()
    assert found.out == ""
    assert found.err == "certify: takes longer than 0 s\ncertify: done in 0 s\n"


def test_a_short_stage_is_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    with long_stage("certify"):
        pass
    assert capfd.readouterr() == ("", "")


def test_no_stage_is_told_beside_the_bars_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LONG", 0.0)
    console = Console(file=io.StringIO(), force_terminal=True)
    with long_stage("certify", console):
        time.sleep(0.02)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


def test_a_stage_that_fails_is_not_said_to_be_done(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LONG", 0.0)
    with pytest.raises(ValueError, match="no"), long_stage("certify"):  # noqa: PT012
        time.sleep(0.1)
        raise ValueError("no")
    assert "done" not in capfd.readouterr().err
