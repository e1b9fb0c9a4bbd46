"""A part of a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """``anchor`` is its id in the page, ``body`` HTML; one with an empty body is left out."""

    anchor: str
    title: str
    body: str
