"""The pages of docs/ have the methods and refinements that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.method_tables import TABLES, written


@pytest.mark.smoke
@pytest.mark.parametrize("mark", TABLES)
def test_the_page_has_what_there_is(mark: str, checkout: Path) -> None:
    """After a change of methods: PYTHONPATH=. python tools/method_tables.py."""
    page = (checkout / "docs" / TABLES[mark][0]).read_text(encoding="utf-8")
    assert written(page, mark) == page
