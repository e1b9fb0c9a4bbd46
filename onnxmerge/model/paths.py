"""Names of files: made independent of the current folder, and made short for people."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path, PurePath


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path from the root, without `..`. A link stays itself, but `..` behind one leads where the system goes."""
    given = Path(path)
    if ".." in given.parts:
        return Path(os.path.realpath(given.parent), given.name) if given.name != ".." else given.resolve()
    return Path(os.path.abspath(given))  # noqa: PTH100  (resolve() would follow links)


def short_names(labels: Sequence[str]) -> tuple[str, ...]:
    """What models are called beside one another: of a file no more of its path than tells it from the others.

    So the names do not depend on the folder in which all of them lie.
    """
    folders = [PurePath(label).parent.parts for label in labels if PurePath(label).is_absolute()]
    levels = zip(*folders, strict=False)
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    parts = [PurePath(label).parts[shared:] if PurePath(label).is_absolute() else (label,) for label in labels]
    apart = dict.fromkeys(parts)

    def shortest(own: tuple[str, ...]) -> str:
        tails = (own[-count:] for count in range(1, len(own)))
        found = next((tail for tail in tails if sum(other[-len(tail) :] == tail for other in apart) == 1), own)
        return PurePath(*found).as_posix()

    return tuple(map(shortest, parts))
