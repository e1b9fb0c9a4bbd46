"""The picture of the README shows the numbers of docs/results.md."""

from __future__ import annotations

from pathlib import Path

from tools.picture import picture


def test_it_is_drawn_from_the_table(checkout: Path) -> None:
    docs = checkout / "docs"
    assert (docs / "results.svg").read_text(encoding="utf-8") == picture((docs / "results.md").read_text("utf-8"))
