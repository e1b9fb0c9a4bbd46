"""Files that are read as a whole: regular ones of a size that suits, whatever the user's path leads to.

A pipe or a device may never end, and opening one may block; so neither is opened.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from onnxmerge.errors import InputError
from onnxmerge.text import clamped, printable, reason

_LONGEST_PATH = 200
"""Characters of a path in a message."""

TEXT_BYTES = 1 << 26
"""The largest text file that is read."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def named(path: str | os.PathLike[str]) -> str:
    """A path as messages show it."""
    return clamped(printable(os.fspath(path)), _LONGEST_PATH)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder of that name; False for names that no file can have."""
    try:
        return stat.S_ISDIR(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return False


def require_file(path: str | os.PathLike[str], what: str) -> int:
    """The size in bytes of a regular file. ``what`` says in messages which kind of file is expected.

    Raises:
        InputError: it is not there, cannot be read, or is a folder, a pipe or a device.

    """
    try:
        found = Path(path).stat()
    except FileNotFoundError as error:
        raise InputError(f"{named(path)}: no such file; {what} is expected") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte
        raise InputError(f"{named(path)}: cannot be read as {what}: {_cause(error)}") from error
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFDIR:
        raise InputError(f"{named(path)}: is a folder; {what} is expected")
    if kind != stat.S_IFREG:
        raise InputError(f"{named(path)}: is {_KINDS.get(kind, 'no file')}; save what it gives, and pass the file")
    return found.st_size


def read_text(path: str | os.PathLike[str], what: str, most: int = TEXT_BYTES) -> str:
    """A text file of at most ``most`` bytes, in UTF-8, with or without a byte order mark.

    Raises:
        InputError: it is no such file.

    """
    size = require_file(path, what)
    if size > most:
        raise InputError(f"{named(path)}: has {size:,} bytes, {what} has at most {most:,}")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{named(path)}: is not UTF-8 text (at byte {error.start}); save {what} as UTF-8") from error
    except OSError as error:
        raise InputError(f"{named(path)}: cannot be read as {what}: {_cause(error)}") from error
    if "\0" in text:
        raise InputError(f"{named(path)}: holds NUL characters; {what} is text")
    return text


def _cause(error: OSError | ValueError) -> str:
    return error.strerror or reason(error) if isinstance(error, OSError) else reason(error)
