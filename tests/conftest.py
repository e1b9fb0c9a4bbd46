"""Fixtures that every test may use, and nothing else: helpers live in graphs.py and strategies.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.command_line import Cli, command_line

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder that holds pyproject.toml."""
    return CHECKOUT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real models and data to measure on: $ONNXMERGE_SHARED, or `shared` beside the checkout. Skips where absent."""
    folder = Path(os.environ.get("ONNXMERGE_SHARED") or CHECKOUT.parent / "shared").resolve()
    if not (folder / "pairs").is_dir():
        pytest.skip(f"no shared material at {folder} (set ONNXMERGE_SHARED)")
    return folder


@pytest.fixture(scope="session")
def digits() -> Path:
    """The example pair that ships with the package: a.onnx, b.onnx, calib.npz, test.npz, task.json."""
    from onnxmerge import examples

    return examples.path("digits")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run ``onnxmerge`` in the test's folder: exit code, and what went to either stream, by native code too."""
    return command_line(tmp_path, monkeypatch, capfd)
