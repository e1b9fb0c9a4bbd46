"""Results as a notebook shows them: a heading, tables and notes. Text that comes in is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from onnxmerge.text import printable


def shown_in_notebook(title: str, tables: Iterable[str], notes: Sequence[str] = ()) -> str:
    """HTML of a result; ``tables`` are those of `table`."""
    told = "".join(f"<li>{_text(note)}</li>" for note in notes)
    return f"<div><strong>{_text(title)}</strong>{''.join(tables)}{f'<ul>{told}</ul>' if told else ''}</div>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text; where all heads are empty it has none."""
    head = f"<thead><tr>{''.join(f'<th>{_text(each)}</th>' for each in heads)}</tr></thead>" if any(heads) else ""
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _text(said: str) -> str:
    return escape(printable(said))
