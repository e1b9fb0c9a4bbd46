#!/usr/bin/env python3
"""Write the table of methods into docs/task-vectors.md, from the registry."""

from __future__ import annotations

from pathlib import Path

from onnxmerge.merging.task_vectors.registry import table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "task-vectors.md"
START, END = "<!-- methods -->\n", "\n<!-- /methods -->"

if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    PAGE.write_text(before + START + table() + END + after, encoding="utf-8")
