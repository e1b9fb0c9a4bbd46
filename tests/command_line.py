"""The command line, run inside the test's process: starting Python and its libraries takes longer than most tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from onnxmerge.cli import main


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


Cli = Callable[..., Ended]


def command_line(folder: Path, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> Cli:
    """Run ``onnxmerge`` with arguments in a folder; an error that `main` does not expect fails the test."""
    monkeypatch.chdir(folder)

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr("sys.argv", ["onnxmerge", *map(str, arguments)])
        code: int | str | None = 0
        try:
            main()
        except SystemExit as left:
            code = left.code
        said = capture.readouterr()
        return Ended(int(code or 0), said.out, said.err)

    return run
