#!/usr/bin/env python3
"""Run the notebooks of docs/notebooks: `python tools/notebooks.py [--write]` (needs `pip install '.[notebooks]'`).

Each runs in an empty folder of its own, from its first cell to its last; one that raises fails it. With --write what
the cells show is stored, so that a notebook can be read where nothing runs; times of the run are left out of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDER = CHECKOUT / "docs" / "notebooks"
FORMS = ("text/html", "image/svg+xml", "image/png", "text/plain")
"""Of the forms of what a cell shows, the first of these is the one that is seen."""


def main() -> int:
    """The exit code: 1 where a cell raises."""
    parser = argparse.ArgumentParser(description="Run the notebooks of docs/notebooks.")
    parser.add_argument("--write", action="store_true", help="store what their cells show")
    write = parser.parse_args().write
    wrong = 0
    for path in sorted(FOLDER.glob("*.ipynb")):
        try:
            done = executed(path)
        except CellExecutionError as raised:
            print(f"{path.name}: {raised}", file=sys.stderr)
            wrong += 1
            continue
        if write:
            path.write_text(f"{nbformat.writes(done, indent=1)}\n", encoding="utf-8")
        print(f"{'stored' if write else 'ran'} {path.name}")
    return 1 if wrong else 0


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with what its cells show, run with the onnxmerge of this checkout.

    Raises CellExecutionError where a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    # One thread: the number of threads is one of the things that results depend on.
    own = {"PYTHONPATH": str(CHECKOUT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as made:
        folder = str(Path(made).resolve())
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=None,
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute(env={**os.environ, **own})
    # And not which Python it was.
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [_stored(output, folder) for output in cell.outputs]
    return notebook


def _stored(output: Any, folder: str) -> Any:
    """What a cell shows, in the form that is seen, without the name of the folder that it ran in."""
    data = output.get("data", {})
    shown = next((form for form in FORMS if form in data), None)
    for other in set(data) - {shown}:
        del data[other]
    for kept, key in ((output, "text"), (data, "text/html"), (data, "text/plain")):
        if key in kept:
            kept[key] = kept[key].replace(f"{folder}{os.sep}", "")
    return output


if __name__ == "__main__":
    sys.exit(main())
