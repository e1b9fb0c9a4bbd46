"""Strings that are shown as they are, and streams that fail in silence."""

from __future__ import annotations

import errno
import io
import sys

import pytest
from rich.table import Table

from onnxmerge.report.terminal import Terminal, complain, emit, guarded_streams, terminal
from onnxmerge.text import clamped, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [red] \\n", "plain [red] \\n"),
        ("\x1b[31m\x07\r\n\t", "\\x1b[31m\\x07\\r\\n\\t"),
        ("\u202e\u200b\ufeff\U000e0041", "\\u202e\\u200b\\ufeff\\U000e0041"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\ud800"),
        ("日本語 é", "日本語 é"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_clamped_in_the_middle() -> None:
    assert clamped("x" * 400) == "x" * 400
    text = clamped("a.onnx: " + "x" * 1000 + "; export again")
    assert len(text) == 400
    assert text.startswith("a.onnx: x")
    assert text.endswith("x; export again")


def test_titles_headings_and_cells_are_escaped() -> None:
    console = Terminal(file=io.StringIO(), width=100, markup=False, emoji=False)
    table = Table(title="\x1b[1m[red]title", box=None, width=60)
    table.add_column("\x07head")
    table.add_row("\u202ecell[/]")
    console.print(table)
    console.say("line\n[bold]")
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    for part in ("\\x1b[1m[red]title", "\\x07head", "\\u202ecell[/]", "line\\n[bold]"):
        assert part in said


def test_a_long_line_is_not_broken_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    terminal().say("word " * 100)
    assert capsys.readouterr().out == "word " * 100 + "\n"


class Failing(io.StringIO):
    """A stream whose disk is full or whose reader is gone."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, _text: str) -> int:
        raise self.error


def test_a_failure_of_standard_output_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError(errno.EPIPE, "Broken pipe")):
        monkeypatch.setattr(sys, "stdout", Failing(error))
        with guarded_streams() as streams:
            emit("{}")
            terminal().say("more")
            assert streams.failure is (None if isinstance(error, BrokenPipeError) else error)


def test_a_failure_of_standard_error_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Failing(OSError(errno.ENOSPC, "No space left on device")))
    with guarded_streams() as streams:
        complain("a message that nobody hears")
        assert streams.failure is None


def test_what_an_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with guarded_streams():
        emit("日本")
    assert raw.getvalue() == b"\\u65e5\\u672c\n"
