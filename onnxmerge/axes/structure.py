"""What an axis cell is made of, and why: the plain data of the calculus of cells.

- ``Product(outer, ..., inner)``: row-major factors, what Reshape makes (768 -> 12 heads x 64).
- ``Concat(part, ...)``: segments, what Concat and Split make (fused q | k | v, dense features).
- ``Family(by, ...)``: one member for each part of another axis ``by`` that was cut. When q, k and v are taken out of
  an axis of three, the heads of q, k and v become three members, free to move apart until an operator joins them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Product:
    """Row-major factors, outermost first. None has size 1."""

    factors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Concat:
    """Consecutive segments."""

    parts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One member (of the full size) for each part of the cut axis ``by``."""

    by: int
    members: tuple[tuple[int, int], ...]


Structure = Product | Concat | Family | None


@dataclass(frozen=True, slots=True)
class Event:
    """Why two cells are one (``other`` >= 0), or why one cell is fixed (``other`` < 0)."""

    cell: int
    other: int
    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Restriction:
    """Only the positions ``part`` of the cut axis ``by`` are left."""

    by: int
    part: int
