"""Folders of files being written are gone afterwards, and those of the dead go with the next run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxmerge.model.scratch import LOCK, NEW, scratch_folder

_HOLD = """
import sys
import time
from pathlib import Path
from onnxmerge.model.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1]), ".out-") as folder:
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def test_gone_afterwards_whatever_happens(tmp_path: Path) -> None:
    def fail() -> None:
        with scratch_folder(tmp_path, ".out-") as folder:
            assert folder.parent == tmp_path
            assert folder.name.startswith(".out-")
            (folder / "file").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no locks that end with a process")
def test_only_what_a_killed_process_left_is_removed(tmp_path: Path, checkout: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)],
        env={"PYTHONPATH": str(checkout)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        held = tmp_path / other.stdout.readline().strip()
        for kept in (".out-mine", ".other-1"):
            (tmp_path / kept).mkdir()
        (tmp_path / ".other-1" / LOCK).touch()
        with scratch_folder(tmp_path, ".out-") as first, scratch_folder(tmp_path, ".out-") as second:
            assert {path.name for path in tmp_path.iterdir()} == {
                held.name,
                first.name,
                second.name,
                ".out-mine",
                ".other-1",
            }
        other.send_signal(signal.SIGKILL)
    assert held.exists()
    with scratch_folder(tmp_path, ".out-"):
        assert not held.exists()
    assert {path.name for path in tmp_path.iterdir()} == {".out-mine", ".other-1"}


@pytest.mark.skipif(sys.platform == "win32", reason="no locks that end with a process")
def test_what_was_killed_before_it_got_its_name_is_removed_in_time(tmp_path: Path) -> None:
    old, young, foreign = (tmp_path / name for name in (".new.out-a", ".new.out-b", ".new.out-c"))
    bare = tmp_path / ".new.out-d"
    for folder in (old, young, foreign, bare):
        folder.mkdir()
    for folder in (old, young):
        (folder / LOCK).touch()
    (foreign / "file").touch()
    long_ago = time.time() - 2 * NEW
    for folder in (old, foreign, bare):
        os.utime(folder, (long_ago, long_ago))
    with scratch_folder(tmp_path, ".out-"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {young.name, foreign.name}
