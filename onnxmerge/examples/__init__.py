"""Example networks that ship with the package (tools/train_digits.py made them)."""

from __future__ import annotations

from pathlib import Path

from onnxmerge.errors import UsageError

HERE = Path(__file__).resolve().parent


def names() -> tuple[str, ...]:
    """The examples there are: each a folder with models, calibration and test data, and a task.json."""
    return tuple(sorted(folder.name for folder in HERE.iterdir() if (folder / "task.json").is_file()))


def path(name: str) -> Path:
    """The folder of the example ``name``; UsageError if there is none."""
    if name not in names():
        raise UsageError(f"no example named {name!r}; there are: {', '.join(names())}")
    return HERE / name
