"""Names of files, made independent of the current folder."""

from __future__ import annotations

import os
from pathlib import Path


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path from the root, without `..`. A link stays itself, but `..` behind one leads where the system goes."""
    given = Path(path)
    if ".." in given.parts:
        return Path(os.path.realpath(given.parent), given.name) if given.name != ".." else given.resolve()
    return Path(os.path.abspath(given))  # noqa: PTH100  (resolve() would follow links)
