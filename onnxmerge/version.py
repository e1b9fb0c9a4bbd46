"""The version, in one place (pyproject.toml reads it from here), and those of the libraries."""

from __future__ import annotations

import re

__version__ = "0.1.0"

_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def libraries() -> dict[str, str]:
    """The version of each library that is needed and installed, by name."""
    from importlib.metadata import PackageNotFoundError, requires, version  # slow to import, and seldom asked for

    found: dict[str, str] = {}
    try:
        needed = requires("onnxmerge") or []
    except PackageNotFoundError:  # a checkout that was not installed
        return found
    names = {match[0] for line in needed if "extra ==" not in line and (match := _NAME.match(line)) is not None}
    for name in sorted(names, key=str.lower):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # of two wheels of one module, the other is installed
            continue
    return found
