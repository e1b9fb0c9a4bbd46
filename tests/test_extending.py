"""The recipes of docs/extending.md, followed literally in a copy of the checkout."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.following import follow

TITLE = re.compile(r"^## (.*)$", re.MULTILINE)


def recipes() -> dict[str, str]:
    _, *parts = TITLE.split((Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_recipes_are_there() -> None:
    assert list(recipes()) == ["An operator", "A method", "A refinement", "A runtime", "A source", "A metric"]


SLOW = ("A method", "A refinement", "A runtime")
"""Ten seconds of commands and more: only with -m slow."""


@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=pytest.mark.slow if title in SLOW else ()) for title in recipes()]
)
def test_a_recipe_does_what_it_says(title: str, checkout: Path, tmp_path: Path) -> None:
    for folder in ("onnxmerge", "specs"):
        shutil.copytree(checkout / folder, tmp_path / folder)  # what is compiled goes by a file's time, and holds
    follow(recipes()[title], tmp_path, tmp_path)
