"""Environments for programs that are not onnxmerge's own: packages of PyPI and npm, a browser, kept from run to run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


class Absent(Exception):  # noqa: N818 - no error: what is needed is not here
    """Something that cannot be had here, and why."""


def cache() -> Path:
    """Where runtimes are installed: $ONNXMERGE_RUNTIMES, or a folder among the user's caches."""
    named = os.environ.get("ONNXMERGE_RUNTIMES")
    return Path(named) if named else Path.home() / ".cache" / "onnxmerge-runtimes"


def pip(packages: Sequence[str], folder: Path) -> Path:
    """The Python of an environment in ``folder`` that has these packages; Absent where they cannot be had."""
    python = folder / "bin" / "python"

    def install() -> None:
        _install([sys.executable, "-m", "venv", str(folder)], folder)
        _install([str(python), "-m", "pip", "install", "-q", *packages], folder)

    _once(folder, packages, install)
    return python


def npm(packages: Sequence[str], folder: Path) -> Path:
    """The folder node_modules in ``folder``, with these packages; Absent where they cannot be had.

    Scripts of packages are not run: that of onnxruntime-node fetches CUDA's libraries, from elsewhere.
    """

    def install() -> None:
        command = [program("npm"), "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save"]
        _install([*command, "--prefix", str(folder), *packages], folder)

    _once(folder, packages, install)
    return folder / "node_modules"


def browser() -> str:
    """A Chromium: $ONNXMERGE_BROWSER, or the one in the PATH."""
    named = os.environ.get("ONNXMERGE_BROWSER")
    found = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise Absent("no Chromium here (set ONNXMERGE_BROWSER)")
    return found


def program(name: str) -> str:
    """Where a program is; Absent where it is not."""
    path = shutil.which(name)
    if path is None:
        raise Absent(f"no {name} here")
    return path


def _once(folder: Path, packages: Sequence[str], install: Callable[[], None]) -> None:
    """Install into ``folder``, unless that was done; what was begun and not finished is done again."""
    mark, wanted = folder / "installed", "\n".join(packages)
    if mark.is_file() and mark.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    install()
    mark.write_text(wanted)


def _install(command: Sequence[str], folder: Path) -> None:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - packages that the caller names
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [""]
        raise Absent(f"cannot be installed: {said[-1]}")
