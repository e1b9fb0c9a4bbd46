"""Small arrays that are read whole: the contents of a .npy or .npz file by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnxmerge.calibration.chunks import naming, npz_columns, read_npy


def read_arrays(path: Path, what: str) -> dict[str, NDArray[Any]]:
    """The arrays of rank 1 and 2 of a file; that of a .npy file goes by the file's name, whatever its rank.

    Others in a .npz (images, say) are not read. ``what`` says in the message what the file should hold.

    Raises:
        InputError: the file cannot be read, or holds pickled objects.

    """
    with naming(path, f"{what} (.npy or .npz)"):
        if path.suffix.lower() == ".npz":
            columns = npz_columns(path)
            return {name: column.whole() for name, column in columns.items() if len(column.shape) in (1, 2)}
        return {path.stem: read_npy(path, mapped=False)}
