"""The recipes of docs/extending.md, followed literally in a copy of the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TITLE = re.compile(r"^## (.*)$", re.MULTILINE)
STEP = re.compile(
    r"(?:^In `(?P<file>[^`]+)`(?:, below `(?P<anchor>[^`]+)`)?[^\n]*:\n\n)?^```(?P<kind>\w+)\n(?P<body>.*?)^```",
    re.MULTILINE | re.DOTALL,
)


def recipes() -> dict[str, str]:
    _, *parts = TITLE.split((Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_recipes_are_there() -> None:
    assert list(recipes()) == ["An operator", "A method", "A refinement", "A runtime", "A source", "A metric"]


SLOW = ("A method", "A refinement", "A runtime")
"""Ten seconds of commands and more: only with -m slow."""


@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=pytest.mark.slow if title in SLOW else ()) for title in recipes()]
)
def test_a_recipe_does_what_it_says(title: str, checkout: Path, tmp_path: Path) -> None:
    for folder in ("onnxmerge", "specs"):
        shutil.copytree(checkout / folder, tmp_path / folder)  # what is compiled goes by a file's time, and holds
    shown = ""
    for step in STEP.finditer(recipes()[title]):
        body = step["body"]
        if step["file"] is not None:
            write(tmp_path / step["file"], step["anchor"], body)
        elif step["kind"] == "sh":
            shown = "".join(run(line, tmp_path) for line in body.splitlines())
        else:
            assert [line for line in body.splitlines() if line not in shown] == []


def write(file: Path, anchor: str | None, body: str) -> None:
    """Make the file, or put the body below the line of it that is the anchor."""
    if anchor is None:
        file.write_text(body, encoding="utf-8")
        return
    before, line, after = file.read_text(encoding="utf-8").partition(f"{anchor}\n")
    assert line, f"{file}: there is no line {anchor!r}"
    file.write_text(f"{before}{line}{body}{after}", encoding="utf-8")


def run(command: str, folder: Path) -> str:
    """What a command prints, in the copy."""
    program, *arguments = command.split()
    start = [sys.executable, "-m", "onnxmerge"] if program == "onnxmerge" else [sys.executable]
    done = subprocess.run(
        [*start, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert not done.returncode, done.stderr
    return done.stdout
