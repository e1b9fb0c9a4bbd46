"""What every test of the command line may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import Cli, command_line


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run ``onnxmerge`` in the test's folder: exit code, and what went to either stream, by native code too."""
    return command_line(tmp_path, monkeypatch, capfd)
