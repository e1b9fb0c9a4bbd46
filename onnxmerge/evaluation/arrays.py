"""Small arrays that are read whole: the contents of a .npy or .npz file by name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.calibration.chunks import npz_columns
from onnxmerge.errors import InputError


def read_arrays(path: Path, what: str) -> dict[str, NDArray[Any]]:
    """The arrays of rank 1 and 2 of a file; that of a .npy file goes by the file's name, whatever its rank.

    Others in a .npz (images, say) are not read. ``what`` says in the message what the file should hold.

    Raises:
        InputError: the file cannot be read, or holds pickled objects.

    """
    try:
        if path.suffix.lower() == ".npz":
            columns = npz_columns(path)
            return {name: column.whole() for name, column in columns.items() if len(column.shape) in (1, 2)}
        return {path.stem: np.load(path, allow_pickle=False)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as {what} (.npy or .npz): {error}") from error
