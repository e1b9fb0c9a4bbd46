"""Folders for files that are being written: gone afterwards, also those of a process that was killed meanwhile.

Such a folder lies beside the file that it is for, on the same file system, so that a rename publishes it. Whoever uses
one holds a lock on a file in it, which the system releases however the process ends. So the next run that needs a
folder at that place can tell which of those it finds are nobody's, and removes them. A folder without the lock file is
none of ours, whatever it is called.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

LOCK = "onnxmerge.lock"

NEW = 60.0
"""Seconds after which a folder that was made but has not got its name yet is nobody's: that takes milliseconds."""


@contextlib.contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder ``parent/prefix...``, removed at the end whatever happens; abandoned ones of that prefix go first.

    It holds the file ``LOCK``, which is not to be touched. Raises OSError where no folder can be made.
    """
    _remove_abandoned(parent, prefix)
    # Locked under a name that nobody looks for, then renamed: at no moment could it be taken for an abandoned one.
    made = Path(tempfile.mkdtemp(prefix=f".new{prefix}", dir=parent))
    folder = made.with_name(made.name.removeprefix(".new"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(shutil.rmtree, made, ignore_errors=True)
        stack.enter_context(_lock(made))
        made.rename(folder)
        yield folder


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. Where there are no locks there is no file either, so that nobody takes it away."""
    if sys.platform == "win32":  # where a folder with an open file in it cannot be renamed either
        yield
        return
    path = folder / LOCK
    with path.open("wb") as stream:
        if not _locked(stream):
            path.unlink()
        yield


def _locked(stream: IO[bytes]) -> bool:
    """Whether the lock could be had, without waiting for it."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def _remove_abandoned(parent: Path, prefix: str) -> None:
    try:
        entries = list(os.scandir(parent))
    except OSError:  # a folder that can be written but not listed
        return
    found = [entry.path for entry in entries if entry.name.startswith(prefix)]
    for entry in entries:  # killed between making the folder and giving it its name
        with contextlib.suppress(OSError):
            if entry.name.startswith(f".new{prefix}") and time.time() - entry.stat().st_mtime > NEW:
                found.append(entry.path)
                Path(entry.path).rmdir()  # if nothing is in it yet, not even the lock
    for path in found:
        # Opened to write, as network file systems want it for a lock; it is another's if that is not allowed.
        with contextlib.suppress(OSError), Path(path, LOCK).open("rb+") as stream:
            if _locked(stream):
                shutil.rmtree(path, ignore_errors=True)
