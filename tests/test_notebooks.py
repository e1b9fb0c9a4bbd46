"""The notebooks of docs/notebooks run from the first cell to the last, and show what is stored in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(CHECKOUT.glob("docs/notebooks/*.ipynb"))
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def forms(notebook: dict[str, Any]) -> list[list[list[str]]]:
    """What kinds of outputs each cell has: numbers in them may differ in their last digits between machines."""
    return [[sorted(output.get("data", {"text": ""})) for output in cell["outputs"]] for cell in code(notebook)]


@EACH
def test_what_is_stored_can_be_read_and_says_nothing_of_the_run(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 300_000
    assert [cell["execution_count"] for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    outputs = [output for cell in code(notebook) for output in cell["outputs"]]
    assert len(outputs) > 4
    assert not [output for output in outputs if output.get("name") == "stderr" or output["output_type"] == "error"]
    folders = "home|mnt|opt|private|root|tmp|usr|var|work|Users"  # nodes have names such as /blocks/conv/Conv
    assert not re.search(rf"/(?:{folders})/\w|\bseconds\b", json.dumps(outputs))


@EACH
@pytest.mark.slow
def test_a_notebook_runs(path: Path) -> None:
    for needed in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(needed, reason="notebooks are run by the extra notebooks")
    from tools.notebooks import executed

    assert forms(executed(path)) == forms(json.loads(path.read_text(encoding="utf-8")))
