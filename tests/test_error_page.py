"""docs/errors.md quotes messages that the code still has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
QUOTED = re.findall(r"^\| `([^`]+)` \|", (CHECKOUT / "docs" / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)


def told(node: ast.AST) -> str:
    """A string as it is written in the code, `...` for what is put into it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(told(part) if isinstance(part, ast.Constant) else "..." for part in node.values)
    return ""


def messages() -> Iterator[str]:
    for path in (CHECKOUT / "onnxmerge").rglob("*.py"):
        yield from map(told, ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.fixture(scope="module")
def every() -> str:
    return "\n".join(sorted({message.replace("\n", " ") for message in messages() if " " in message}))


@pytest.mark.parametrize("text", QUOTED)
def test_a_quoted_message_is_in_the_code(text: str, every: str) -> None:
    assert re.search(".*".join(map(re.escape, text.split("..."))), every)


def test_there_are_enough() -> None:
    assert len(QUOTED) >= 25
