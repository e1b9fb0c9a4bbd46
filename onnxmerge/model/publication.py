"""Files that appear together or not at all: written into hidden folders beside their targets, then renamed.

A file that is replaced gives its mode, and its owner where that may be set, as if it had been opened and written. A
link that is replaced is itself replaced: what it leads to stays as it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from onnxmerge.errors import InputError
from onnxmerge.model.paths import absolute
from onnxmerge.model.scratch import scratch_folder

PREFIX = ".onnxmerge-"
"""How the names of the hidden folders begin."""
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Publication(contextlib.ExitStack):
    """A context that files are staged in; `publish` makes them appear. What is not published is gone afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self._folders: dict[Path, Path] = {}
        self._staged: list[tuple[Path, Path]] = []
        self.published: tuple[Path, ...] = ()

    def stage(self, target: Path) -> Path:
        """Where to write the file that is to become ``target``: a path of the same name, in a folder of its own.

        Raises InputError where ``target`` cannot be written (`require_writable`).
        """
        require_writable(target)
        folder = self._folders.get(target.parent)
        if folder is None:
            with naming(target):
                scratch = self.enter_context(scratch_folder(target.parent, PREFIX))
                folder = self._folders[target.parent] = scratch / "new"
                folder.mkdir()
        self._staged.append((folder / target.name, target))
        return folder / target.name

    def staged(self, target: Path) -> Path:
        """Where a file waits that was staged for ``target``."""
        return next(path for path, wanted in self._staged if wanted == absolute(target))

    def write_text(self, target: Path, text: str) -> None:
        """Stage a file of this text."""
        self.write_bytes(target, text.encode("utf-8", errors="backslashreplace"))

    def write_bytes(self, target: Path, content: bytes) -> None:
        """Stage a file of these bytes."""
        staged = self.stage(target)
        with naming(target):
            staged.write_bytes(content)

    def publish(self) -> None:
        """Move all staged files to their targets. Raises InputError where one cannot be moved: then all are as before.

        An interruption on the way undoes what was done too.
        """
        undo: list[Callable[[], None]] = []
        try:
            for number, (staged, target) in enumerate(self._staged):
                if not staged.exists():  # a data file for which no tensor was large enough
                    continue
                with naming(target):
                    _settle(staged, target)
                    old = staged.parent.parent / f"old.{number}"
                    undo.append(_kept(target, old))
                    staged.replace(target)
        except BaseException:
            for undone in reversed(undo):
                with contextlib.suppress(OSError):  # a disk that takes nothing back does not lose it either
                    undone()
            raise
        self.published = tuple(target for _, target in self._staged)
        self._staged.clear()


def require_writable(target: Path) -> None:
    """Raise InputError unless a file may be made at ``target``, or replaced if it is one that may be written.

    Its folder must be there. A device, a pipe or a socket is no file to replace, nor is a link into /proc, which
    leads to something that this process has open (/dev/stdout).
    """
    with naming(target):
        if not str(target).isprintable() and any(0xDC80 <= ord(character) <= 0xDCFF for character in str(target)):
            raise InputError(f"{target}: is not UTF-8, and ONNX opens no such names; choose another one")
        if target.is_dir():
            raise InputError(f"{target}: is a directory; give the name of a file")
        if not target.parent.is_dir():
            raise InputError(f"{target}: its folder does not exist; create {target.parent} first")
        if target.exists() and (not target.is_file() or _leads_into_proc(target)):
            raise InputError(f"{target}: is a device, a pipe or the like, and only files are replaced; name a file")
        if target.is_symlink() or not target.exists():
            return
        if not target.stat().st_mode & 0o222 or not os.access(target, os.W_OK):
            raise InputError(f"{target}: is protected from writing; choose another name, or allow it with chmod u+w")


def _leads_into_proc(link: Path) -> bool:
    if not link.is_symlink():
        return False
    leads = os.path.realpath((link.parent / link.readlink()).parent)
    return leads == "/proc" or leads.startswith("/proc/")


def _settle(staged: Path, target: Path) -> None:
    """Have the bytes on the disk, and the mode and owner of the file that is replaced."""
    with staged.open("rb+") as stream:
        os.fsync(stream.fileno())
    if target.is_symlink() or not target.is_file():
        return
    found = target.stat()
    if hasattr(os, "chown") and (found.st_uid, found.st_gid) != (staged.stat().st_uid, staged.stat().st_gid):
        with contextlib.suppress(OSError):
            os.chown(staged, found.st_uid, found.st_gid)
    staged.chmod(stat.S_IMODE(found.st_mode))


def _kept(target: Path, old: Path) -> Callable[[], None]:
    """Keep what ``target`` is under another name too, and return what brings it back."""
    if not os.path.lexists(target):
        return lambda: target.unlink(missing_ok=True)
    try:
        os.link(target, old, follow_symlinks=False)  # so that the target is there at every moment
    except (OSError, NotImplementedError):  # a file system without hard links
        target.replace(old)

    def put_back() -> None:
        if not (os.path.lexists(target) and os.path.samestat(old.lstat(), target.lstat())):
            old.replace(target)

    return put_back


@contextlib.contextmanager
def naming(target: Path) -> Iterator[None]:
    """Turn an OSError into an InputError that names the file that was to be written."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {_reason(error, target)}") from error


def _reason(error: OSError, target: Path) -> str:
    if error.errno in _FULL:
        free = shutil.disk_usage(target.parent).free
        return f"no space left in {target.parent} ({free} bytes free); free some or choose another place"
    return f"{error.strerror or error}; choose another place or change its permissions"
