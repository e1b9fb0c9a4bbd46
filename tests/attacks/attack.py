"""What every hostile or careless case is held to, whatever it attacks.

A case is a row in a table: a function that writes its files into an empty folder and gives the command line, how the
command must end, and what its message must say. `Attack.check` runs it and looks at all that is promised of every
command: a documented exit code; at most one line of error, printable, that says what to do; inputs untouched; nothing
left behind that was not asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest

from tests.command_line import Cli, Ended

LONGEST = 400
"""Characters of an error message, at most."""
MEMORY = 1_500_000_000
"""Bytes that a command on a tiny input may hold, at most (its peak resident set)."""
PATIENCE = 120
"""Seconds after which a command counts as hung; the promise is 20 on an idle machine."""
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Attack:
    """One case.

    ``build`` writes files into the folder it is given and returns the command line (without `onnxmerge`), which runs in
    that folder. ``exit_code`` is how it must end, ``says`` are parts of what it must print (on standard error where it
    fails). ``writes`` are the files that it may leave, beside those that were there. ``apart`` runs it in a process of
    its own, with the time and memory that it takes held to the bounds, and ``environment`` added; else it runs inside
    the test's process, which is faster.
    """

    name: str
    build: Callable[[Path], Sequence[object]]
    exit_code: int = 1
    says: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    apart: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def check(self, folder: Path, cli: Cli) -> Ended:
        """Run the case in ``folder``, which ``cli`` also runs in, and hold it to what is promised."""
        arguments = self.build(folder)
        before = contents(folder)
        ended = _process(arguments, folder, self.environment) if self.apart else cli(*arguments)
        assert ended.returncode == self.exit_code, (ended.returncode, ended.stdout, ended.stderr)
        said = ended.stderr if self.exit_code else ended.stdout + ended.stderr
        for part in self.says:
            assert part in said, said
        if self.exit_code:
            _require_one_line(ended.stderr)
        _require_printable(ended.stdout + ended.stderr)
        after = contents(folder)
        assert {name: digest for name, digest in after.items() if name in before} == before, "an input was changed"
        assert set(after) - set(before) <= set(self.writes), "something was left behind"
        if self.exit_code == 0:
            assert set(self.writes) <= set(after), "something was not written"
        return ended


def attacks(*cases: Attack) -> pytest.MarkDecorator:
    """Parametrise a test by a table of cases, each under its own name."""
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "two cases have one name"
    return pytest.mark.parametrize("attack", cases, ids=names)


def contents(folder: Path) -> dict[str, str]:
    """Every file and link below a folder, by path, with a digest of what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = f"link to {path.readlink()}"
        elif path.is_file():
            found[str(path.relative_to(folder))] = sha256(path.read_bytes()).hexdigest()
    return found


def _require_one_line(stderr: str) -> None:
    lines = stderr.strip().splitlines()
    # A usage error shows the usage and where help is before its one line.
    assert len(lines) == 1 or lines[0].startswith("Usage:"), stderr
    assert len(lines[-1]) <= LONGEST, f"{len(lines[-1])} characters: {lines[-1]}"
    assert "internal error" not in stderr, stderr
    assert "Traceback" not in stderr, stderr


def _require_printable(text: str) -> None:
    bad = {character for character in text if not character.isprintable() and character != "\n"}
    assert not bad, f"control characters reach the terminal: {bad!r}"


def _process(arguments: Sequence[object], folder: Path, environment: Mapping[str, str]) -> Ended:
    """Run the command in a process of its own, and hold its peak memory to the bound."""
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), **environment}
    command = [sys.executable, "-m", "onnxmerge", *map(str, arguments)]
    measured = [sys.executable, "-c", _MEASURE, *command]
    done = subprocess.run(
        measured, cwd=folder, env=env, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False
    )
    stderr, _, peak = done.stderr.decode(errors="replace").rpartition("\npeak ")
    assert int(peak) < MEMORY, f"{int(peak):,} bytes"
    return Ended(done.returncode, done.stdout.decode(errors="replace"), stderr.rstrip("\n"))


_MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
sys.stderr.write(f"\\npeak {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024}")
sys.exit(code)
"""
