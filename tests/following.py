"""Follow a page of docs/ literally: make its files, run its commands, look for what it says they print.

A page's blocks are steps: files (``In `FILE`:`` and a block; with ``below `LINE` `` they go into a file that is there),
commands (``sh``, and indented ones), scripts (``python`` that goes into no file), and what the commands before print
(``text``: these lines are among them). Blocks of other kinds are for reading.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

STEP = re.compile(
    r"(?:\b[Ii]n (?:a file )?`(?P<file>[^`]+)`(?:, below `(?P<anchor>[^`]+)`)?[^\n]*:\n\n)?"
    r"^```(?P<kind>\w+)\n(?P<body>.*?)^```",
    re.MULTILINE | re.DOTALL,
)


INDENTED = re.compile(r"^ {4}(onnxmerge .*)$", re.MULTILINE)


def follow(page: str, folder: Path, checkout: Path, failing: Collection[str] = ()) -> None:
    """All steps of a page in a folder, with the onnxmerge of that checkout.

    ``failing`` are the commands that end with exit code 3 here; all others end with 0.
    """
    shown = ""
    for step in STEP.finditer(INDENTED.sub(r"```sh\n\1\n```", page)):
        body = step["body"]
        if step["file"] is not None:
            write(folder / step["file"], step["anchor"], body)
        elif step["kind"] == "sh":
            shown = "".join(run(line, folder, checkout, failing) for line in body.splitlines())
        elif step["kind"] == "python":
            write(folder / "block.py", None, f"import onnxmerge\n{body}")
            shown = run("python block.py", folder, checkout)
        elif step["kind"] == "text":
            assert [line for line in body.splitlines() if line not in shown] == [], shown


def write(file: Path, anchor: str | None, body: str) -> None:
    """Make the file, or put the body below the line of it that is the anchor."""
    if anchor is None:
        file.write_text(body, encoding="utf-8")
        return
    before, line, after = file.read_text(encoding="utf-8").partition(f"{anchor}\n")
    assert line, f"{file}: there is no line {anchor!r}"
    file.write_text(f"{before}{line}{body}{after}", encoding="utf-8")


def run(command: str, folder: Path, checkout: Path, failing: Collection[str] = ()) -> str:
    """What a command prints, in the folder, on a terminal that is wide enough for it."""
    program, *arguments = shlex.split(command, comments=True)
    start = [sys.executable, "-m", "onnxmerge"] if program == "onnxmerge" else [sys.executable]
    done = subprocess.run(
        [*start, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    code = 3 if " ".join([program, *arguments]) in failing else 0
    assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout
