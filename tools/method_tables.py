#!/usr/bin/env python3
"""Write the tables of methods and refinements into the pages of docs/, from the registries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxmerge.contracts import Contract
from onnxmerge.matching.methods import MATCHERS
from onnxmerge.merging.refinements.methods import REFINEMENTS
from onnxmerge.merging.repair.repairs import REPAIRS
from onnxmerge.merging.task_vectors import TASK_VECTORS

DOCS = Path(__file__).resolve().parents[1] / "docs"
TABLES: Mapping[str, tuple[str, str, Mapping[str, Contract[Any]]]] = {
    "task vectors": ("task-vectors.md", "--method", TASK_VECTORS),
    "methods": ("choosing.md", "--method", MATCHERS),
    "refinements": ("choosing.md", "--refine", REFINEMENTS),
    "repairs": ("choosing.md", "--repair", REPAIRS),
}
"""For each mark in a page: the page, the option, and what it chooses from."""


def table(option: str, contracts: Mapping[str, Contract[Any]]) -> str:
    """All of them in Markdown, a row each."""
    rows = [f"| `{option}` | what it does | needs | its own options, by default | source |", "|---|---|---|---|---|"]
    for each in contracts.values():
        needs = f"`{each.needed}`" if each.needed else "takes `--base`" if getattr(each, "takes_base", False) else ""
        options = f"`{each.defaults}`" if each.defaults else ""
        rows.append(f"| `{each.name}` | {each.summary} | {needs} | {options} | {each.source} |")
    return "\n".join(rows)


def written(page: str, mark: str) -> str:
    """A page's text with the table of a mark in it."""
    start, end = f"<!-- {mark} -->\n", f"\n<!-- /{mark} -->"
    _, option, contracts = TABLES[mark]
    return page.split(start, maxsplit=1)[0] + start + table(option, contracts) + end + page.split(end)[1]


if __name__ == "__main__":
    for mark, (name, *_) in TABLES.items():
        text = (DOCS / name).read_text(encoding="utf-8")
        (DOCS / name).write_text(written(text, mark), encoding="utf-8")
