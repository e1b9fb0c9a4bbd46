"""Pieces of HTML: tables, cards, bars. Whatever text comes in is escaped here."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from html import escape

from onnxmerge.text import printable

_TALL = 14
"""Rows of a table from which on it scrolls by itself."""


def text(said: object) -> str:
    """Text as HTML shows it: escaped, and without what would change the direction of what stands around it."""
    return escape("\n".join(map(printable, str(said).split("\n"))))


def paragraph(said: str, kind: str = "") -> str:
    """One paragraph of text; nothing where there is none."""
    return f"<p{f' class={kind}' if kind else ''}>{text(said)}</p>" if said else ""


def bullets(notes: Sequence[str]) -> str:
    """A list of texts; nothing where there is none."""
    return "<ul class=notes>" + "".join(f"<li>{text(note)}</li>" for note in notes) + "</ul>" if notes else ""


def preformatted(said: str, anchor: str = "") -> str:
    """Text as it is typed."""
    return f"<pre tabindex=0{f' id={anchor}' if anchor else ''}>{text(said)}</pre>" if said else ""


def folded(summary: str, content: str) -> str:
    """Content that opens where somebody asks for it; nothing where there is none."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>" if content else ""


def scrolled(content: str, label: str, *, tall: bool = False) -> str:
    """What may be wider than a phone, or ``tall``, in a frame of its own that the keyboard reaches."""
    kind = "scroll tall" if tall else "scroll"
    return f'<div class="{kind}" tabindex=0 role=region aria-label="{text(label)}">{content}</div>'


def cards(rows: Sequence[tuple[str, str, str]]) -> str:
    """What matters most, each with its name, its value, and what is to be said of it."""
    shown = [
        f"<div><dt>{text(name)}</dt><dd><strong>{text(value)}</strong> <span>{text(about)}</span></dd></div>"
        for name, value, about in rows
    ]
    return f"<dl class=cards>{''.join(shown)}</dl>"


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    label: str,
    *,
    numbers: Collection[int] = (),
    bars: Collection[int] = (),
    long: Collection[int] = (),
    anchors: Sequence[str] = (),
) -> str:
    """A table of text. ``label`` says what it is to who does not see it.

    ``numbers`` are the columns to align at the right, ``bars`` those that are HTML (`meter`, `dotted`, `key`, `link`),
    ``long`` those to break anywhere. ``anchors`` are the ids of rows. The first column names the row.
    """

    def cell(index: int, said: str) -> str:
        shown = said if index in bars else text(said)
        if not index:
            return f"<th scope=row>{shown}</th>"
        kind = " class=n" if index in numbers else " class=hash" if index in long else ""
        return f"<td{kind}>{shown}</td>"

    head = "".join(
        f"<th scope=col{' class=n' if index in numbers else ''}>{text(name)}</th>" for index, name in enumerate(heads)
    )
    ids = [f' id="{text(name)}"' for name in anchors] or [""] * len(rows)
    body = "".join(
        f"<tr{own}>{''.join(cell(index, said) for index, said in enumerate(row))}</tr>"
        for own, row in zip(ids, rows, strict=True)
    )
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return scrolled(whole, label, tall=len(rows) > _TALL)


def dotted(name: str) -> str:
    """A name of several parts, which breaks between them where a phone is too narrow for it."""
    return text(name).replace(".", ".<wbr>")


def key(kind: str, said: str) -> str:
    """A colour of the legend, and what it stands for."""
    return f'<i class=key data-d="{text(kind)}"></i> {text(said)}'


def link(anchor: str, said: str) -> str:
    """A link inside the page."""
    return f'<a href="#{text(anchor)}">{text(said)}</a>'


def meter(value: float | None, most: float = 1.0, digits: str = ".3f") -> str:
    """A number with a bar, of ``most``; a dash for what is not known."""
    if value is None or math.isnan(value):
        return "-"
    width = 100 * max(0.0, min(1.0, value / most))
    return f'<span class=meter style="--v:{width:.1f}%"></span><span class=n>{value:{digits}}</span>'


def similarity(value: float | None) -> str:
    """A similarity; a dash where it is not known."""
    return "-" if value is None else f"{value:.3f}"


def short(value: float | None) -> str:
    """Three digits; a dash for what is not known."""
    return "-" if value is None or math.isnan(value) else f"{value:.3g}"


def count(value: int) -> str:
    """A large whole number in three digits: 45.2 k, 1.35 M, 4.1 G."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= 10 * size or (value >= size > 10**3):
            return f"{value / size:.3g} {letter}"
    return f"{value:,}"
