"""Fixtures that every test may use, and nothing else: helpers live in graphs.py and strategies.py."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import hypothesis
import pytest

from onnxmerge.cli.main import ALLOCATIONS
from tests.command_line import Cli, command_line

CHECKOUT = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("no clock", deadline=None)  # a busy machine is no fault of the code
hypothesis.settings.load_profile("no clock")


def pytest_configure(config: pytest.Config) -> None:
    """Keep each of several workers to a core of its own.

    Else ONNX Runtime starts a thread for each core in all of them, and those of one wait busily where another has work.
    """
    worker = getattr(config, "workerinput", None)
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker["workerid"].removeprefix("gw")) % len(cores)]})


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m smoke``, leave out the files that mark no test so: to import all takes longer than to run these."""
    if config.option.markexpr != "smoke" or collection_path.suffix != ".py":
        return None
    return None if "pytest.mark.smoke" in collection_path.read_text(encoding="utf-8") else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the recipes, which take the longest: at the end one worker would wait for another to finish them."""
    items.sort(key=lambda item: item.path.name != "test_extending.py")


def pytest_collection_finish() -> None:
    """Look for garbage among what the tests make, and seldom (as the command line does): what is imported stays.

    Else a seventh of the time goes into looking through modules and collected tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS)


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
