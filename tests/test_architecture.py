"""docs/architecture.md is true: the rooms are those that it names, and imports go down its floors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.architecture import drawn, imports, rooms


@pytest.fixture(scope="module")
def page(checkout: Path) -> str:
    return (checkout / "docs" / "architecture.md").read_text()


def floors(page: str) -> dict[str, int]:
    """Each room and its floor, counted from below."""
    table = page.split("```text\n")[1].split("```", maxsplit=1)[0].splitlines()
    return {name: floor for floor, line in enumerate(reversed(table)) for name in re.findall(r"(\w+)/(?= )", line[:46])}


@pytest.mark.smoke
def test_imports_go_down(page: str, checkout: Path) -> None:
    found = floors(page)
    wrong = []
    for one, other in imports(checkout / "onnxmerge"):
        room, below = one.partition(".")[0], other.partition(".")[0]
        if room != below and below in found and room not in ("__init__", "__main__"):
            wrong += [] if found.get(room, -1) > found[below] else [f"{one} imports {other}"]
    assert not wrong


def test_every_room_has_its_floor(page: str, checkout: Path) -> None:
    assert floors(page).keys() == set(rooms(checkout / "onnxmerge")) - {"examples"}


def test_the_picture_is_that_of_the_imports(page: str, checkout: Path) -> None:
    assert drawn(page, checkout / "onnxmerge") == page, "run PYTHONPATH=. python tools/architecture.py"


def test_the_glossary_s_names_are_in_the_code(checkout: Path) -> None:
    table = (checkout / "docs" / "glossary.md").read_text().splitlines()
    names = {name for line in table if line.startswith("| ") for name in re.findall(r"`([\w.]+)` \|$", line)}
    code = "".join(path.read_text() for path in (checkout / "onnxmerge").rglob("*.py"))
    missing = [
        name for name in names if not re.search(rf"^ *(class |def )?{name.split('.')[-1]}\b[:( ]", code, re.MULTILINE)
    ]
    assert names
    assert not missing
