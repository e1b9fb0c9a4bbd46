"""docs/architecture.md is true: the rooms are those that it names, and imports go down its floors."""

from __future__ import annotations

import re
from pathlib import Path

import networkx as nx
import pytest

from tools.architecture import PAGE, drawn, imports, rooms


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text()


@pytest.fixture(scope="module")
def found(checkout: Path) -> list[tuple[str, str]]:
    """Every import: to parse all files takes seconds."""
    return list(imports(checkout / "onnxmerge"))


@pytest.fixture(scope="module")
def graph(checkout: Path, found: list[tuple[str, str]]) -> nx.DiGraph:
    return rooms(checkout / "onnxmerge", found)


def floors(page: str) -> dict[str, int]:
    """Each room and its floor, counted from below."""
    table = page.split("```text\n")[1].split("```", maxsplit=1)[0].splitlines()
    return {name: floor for floor, line in enumerate(reversed(table)) for name in re.findall(r"(\w+)/(?= )", line[:46])}


@pytest.mark.smoke
def test_imports_go_down(page: str, found: list[tuple[str, str]]) -> None:
    floor = floors(page)
    wrong = []
    for one, other in found:
        room, below = one.partition(".")[0], other.partition(".")[0]
        if room != below and below in floor and room not in ("__init__", "__main__"):
            wrong += [] if floor.get(room, -1) > floor[below] else [f"{one} imports {other}"]
    assert found
    assert not wrong


def test_every_room_has_its_floor(page: str, graph: nx.DiGraph) -> None:
    assert floors(page).keys() == set(graph) - {"examples"}


def test_the_picture_is_that_of_the_imports(page: str, graph: nx.DiGraph) -> None:
    assert drawn(page, graph) == page, "run PYTHONPATH=. python tools/architecture.py"


def test_the_glossary_s_names_are_in_the_code(checkout: Path) -> None:
    table = (checkout / "docs" / "glossary.md").read_text().splitlines()
    names = {name for line in table if line.startswith("| ") for name in re.findall(r"`([\w.]+)` \|$", line)}
    code = "".join(path.read_text() for path in (checkout / "onnxmerge").rglob("*.py"))
    defined = set(re.findall(r"^ *(?:class |def )?(\w+)\b[:( ]", code, re.MULTILINE))
    assert names
    assert not {name for name in names if name.split(".")[-1] not in defined}
