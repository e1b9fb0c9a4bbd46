"""The landscape around a merge: a table on the terminal, and pictures of the plane and of the line through the parents.

All panels show losses as shares of what one answer to all samples loses, in the same bands, so that they compare.
Every name comes from a file that anybody may have made, and is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import numpy as np
from rich.table import Table

from onnxmerge.api.landscape import Landscape
from onnxmerge.pipeline.landscape import LossSurface
from onnxmerge.report.html import bullets, paragraph, text
from onnxmerge.report.html import table as html_table
from onnxmerge.report.section import Section
from onnxmerge.report.styles import PICTURE
from onnxmerge.report.terminal import terminal
from onnxmerge.text import clamped
from onnxmerge.types import Floats

BANDS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
"""Colours of the bands (viridis), from the lowest losses to the highest."""

_LEAST, _MOST = 1 / 64, 2.0
"""Shares of what one answer loses below and above which bands tell nothing apart."""

_LINES = ("averaged", "solved", "repaired", "answer", "vectors", "untouched")
"""Colours of lines, by their names in the styles of pictures."""

_WIDTH, _HEIGHT = 300, 350
_LEFT, _TOP, _SIDE = 46, 50, 240
"""Of a panel: its size; where the square plot in it begins, and the side of that."""

_FINE = 60
"""Cells on each side, whole pixels: losses are interpolated between the points that were measured."""

HIGHEST = 3.0
"""Where lines are cut off."""


def print_landscape(found: Landscape, written: Iterable[Path]) -> None:
    """Losses of the models, the barrier before and after matching, where the merge lies and how low the plane gets."""
    console = terminal()
    table = Table(title=f"loss, {found.samples:,} samples", title_justify="left", box=None)
    table.add_column("task")
    heads = (*found.models, "one answer for all", "barrier", "barrier, matched")
    for head in heads:
        table.add_column(clamped(head, 24), justify="right")
    for surface in found.surfaces:
        values = (*surface.marks.tolist(), surface.constant, *surface.barriers)
        table.add_row(clamped(surface.name, 40), *(f"{value:.4g}" for value in values))
    console.print(table)
    for title, told in _facts(found):
        console.say(f"{title:16} {told}")
    for path in written:
        console.say(f"wrote            {path}")


def _facts(found: Landscape) -> Iterable[tuple[str, str]]:
    x, y = found.plane.merged
    by_weights = f"weights, to the merge: {clamped(found.models[1], 24)} is nearer to it than by {found.method}"
    yield "matched by", by_weights if found.to_merge else found.method
    if found.plane.distance:
        told = f"x {x:.3f}, y {y:.3f}: the parents are at x 0 and 1, {found.plane.distance:.4g} apart once matched"
        yield "the merge is at", told
    last = found.surfaces[-1]
    if last.plane.size:
        row, column = np.unravel_index(last.plane.argmin(), last.plane.shape)
        lowest = f"{last.plane.min():.4g} at x {found.xs[column]:.3f}, y {found.ys[row]:.3f}"
        yield "lowest", f"{last.name} {lowest}; {last.marks[2]:.4g} at the merge"
    yield from (("note", note) for note in found.notes)


def landscape_svg(found: Landscape) -> str:
    """All panels as one picture that stands alone."""
    every = [*_panels(found)]
    across = min(3, len(every))
    width, height = across * _WIDTH, -(-len(every) // across) * _HEIGHT
    placed = "".join(
        f'<g transform="translate({index % across * _WIDTH} {index // across * _HEIGHT})">{panel}</g>'
        for index, panel in enumerate(every)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="picture" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="Losses around a merge"><style>{PICTURE}</style>{placed}</svg>\n'
    )


def landscape_section(found: Landscape) -> Section:
    """The pictures as a part of a page, with the losses of the models and the barrier in numbers."""
    heads = ("task", *found.models, "one answer for all", "barrier", "barrier, matched")
    rows = [
        (each.name, *(f"{value:.4g}" for value in (*each.marks.tolist(), each.constant, *each.barriers)))
        for each in found.surfaces
    ]
    about = (
        f"The plane through the parents and the merge, the second parent in the first's units, on {found.samples:,} "
        f"samples. Losses are of {'labels' if found.labelled else 'what each parent answers'}; bands are shares of "
        "what the best single answer to all samples loses."
    )
    panels = "".join(
        f'<svg class="picture" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{name}">{panel}</svg>'
        for name, panel in zip(_panel_names(found), _panels(found), strict=True)
    )
    body = paragraph(about) + f"<div class=panels>{panels}</div>"
    body += html_table(heads, rows, "Losses", numbers=tuple(range(1, len(heads))))
    body += bullets([f"{title}: {told}" for title, told in _facts(found)])
    return Section("landscape", "Losses around it", body)


def _panels(found: Landscape) -> Iterable[str]:
    """The plane for each task and for their overlap, with its legend, and the line between the parents."""
    for surface in found.surfaces:
        if surface.plane.size:
            yield _map(found, surface)
    yield _line(found)
    yield _legend(found)


def _panel_names(found: Landscape) -> Iterable[str]:
    """What a reader of the screen says of each panel."""
    for surface in found.surfaces:
        if surface.plane.size:
            yield text(f"Loss on the plane: {surface.name}")
    yield "Losses on the straight line between the parents"
    yield "Legend"


def _map(found: Landscape, surface: LossSurface) -> str:
    told = "first {:.2g}, second {:.2g}, merge {:.2g}".format(*surface.marks)
    names, (x, y) = found.models, found.plane.merged
    marks = [(0.0, 0.0, names[0]), (1.0, 0.0, names[1]), (x, y, names[2])]
    shown = [_mark(*_place(found, at_x, at_y), name, index) for index, (at_x, at_y, name) in enumerate(marks)]
    ticks = [_tick(*_place(found, value, found.ys[0]), f"{value:g}", "middle", 0, 16) for value in (0.0, 0.5, 1.0)]
    ticks += [
        _tick(*_place(found, found.xs[0], value), f"{value:.2g}", "end", -6, 4) for value in sorted({0.0, round(y, 2)})
    ]
    frame = _frame(surface.name, told, "x, first to second", "y")
    return f"{frame}{_bands(found, surface)}{''.join(ticks)}{''.join(shown)}"


def _bands(found: Landscape, surface: LossSurface) -> str:
    """The loss between the points that were measured, in bands: each a path of runs of cells, row by row."""
    levels = np.log(np.clip(surface.shares(surface.plane), _LEAST / 2, 2 * _MOST))
    across, down = (axis[0] + (np.arange(_FINE) + 0.5) / _FINE * (axis[-1] - axis[0]) for axis in (found.xs, found.ys))
    rows = np.array([np.interp(across, found.xs, row) for row in levels])
    fine = np.array([np.interp(down, found.ys, column) for column in rows.T]).T[::-1]
    bands = np.searchsorted(np.log(_edges(found)), fine)
    cell = _SIDE // _FINE
    paths: list[list[str]] = [[] for _ in BANDS]
    for row, values in enumerate(bands):
        starts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist()]
        for start, end in zip(starts, [*starts[1:], _FINE], strict=True):
            left, top, width = _LEFT + start * cell, _TOP + row * cell, (end - start) * cell
            paths[values[start]].append(f"M{left} {top}h{width}v{cell}h{-width}z")
    return "".join(
        f'<path shape-rendering="crispEdges" fill="{colour}" d="{"".join(path)}"/>'
        for colour, path in zip(BANDS, paths, strict=True)
        if path
    )


def bands_of(found: Landscape) -> Floats:
    """The ends of all bands: equal ratios, from the lowest share on any plane to the highest."""
    shares = np.clip([surface.shares(surface.plane) for surface in found.surfaces], _LEAST, _MOST)
    low, high = float(shares.min()), float(shares.max())
    return np.geomspace(low, max(high, low * (1 + 1e-6)), len(BANDS) + 1)


def _edges(found: Landscape) -> Floats:
    """Where a band ends and the next begins."""
    return bands_of(found)[1:-1]


def _place(found: Landscape, x: float, y: float) -> tuple[float, float]:
    across, up = ((at - axis[0]) / (axis[-1] - axis[0]) for at, axis in ((x, found.xs), (y, found.ys)))
    return _LEFT + _SIDE * float(across), _TOP + _SIDE * (1 - float(up))


def _mark(x: float, y: float, name: str, shape: int) -> str:
    """A circle, a square, a diamond: shapes that are told apart without colours, and the name beside it."""
    drawn = ("M-6 0a6 6 0 1 0 12 0a6 6 0 1 0 -12 0z", "M-5.5 -5.5h11v11h-11z", "M0 -8l8 8l-8 8l-8 -8z")[shape]
    halo = 'fill="#fff" stroke="#111" stroke-width="1.5"'
    anchor = "end" if x > _LEFT + _SIDE / 2 else "start"
    offset = -11 if anchor == "end" else 11
    return (
        f'<g transform="translate({x:.1f} {y:.1f})"><path d="{drawn}" {halo}/><text x="{offset}" y="5" '
        f'text-anchor="{anchor}" style="fill:#fff;stroke:#111;stroke-width:3px;paint-order:stroke">'
        f"{text(clamped(name, 18))}</text></g>"
    )


def _tick(x: float, y: float, said: str, anchor: str, right: int, down: int) -> str:
    return f'<text class="size" text-anchor="{anchor}" x="{x + right:.1f}" y="{y + down:.1f}">{said}</text>'


def _frame(title: str, told: str, across: str, up: str) -> str:
    middle = _LEFT + _SIDE // 2
    return (
        f'<text class="name" x="{_LEFT}" y="18">{text(clamped(title, 34))}</text>'
        f'<text class="size" x="{_LEFT}" y="38">{text(told)}</text>'
        f'<rect class="box" x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}"/>'
        f'<text class="size" text-anchor="middle" x="{middle}" y="{_TOP + _SIDE + 34}">{across}</text>'
        f'<text class="size" text-anchor="middle" x="12" y="{_TOP + _SIDE // 2}" '
        f'transform="rotate(-90 12 {_TOP + _SIDE // 2})">{up}</text>'
    )


def _line(found: Landscape) -> str:
    """The losses between the parents: dashed with the second as it is, solid once it is matched to the first."""
    every = [surface.shares(np.concatenate([surface.before, surface.after])) for surface in found.surfaces]
    most = min(float(np.max(every)), HIGHEST) or 1.0

    def drawn(losses: Floats, colour: str, dashes: str) -> str:
        heights = _TOP + _SIDE * (1 - np.minimum(losses, most) / most)
        points = zip(_LEFT + _SIDE * found.ts, heights, strict=True)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        return f'<polyline points="{path}" fill="none" stroke-width="2"{dashes} style="stroke:var(--{colour})"/>'

    parts = [_frame("Straight line between the parents", "dashed: as they are, solid: matched", "first to second", "")]
    parts += [_tick(_LEFT + _SIDE * at, _TOP + _SIDE, f"{at:g}", "middle", 0, 16) for at in (0.0, 0.5, 1.0)]
    parts += [_tick(_LEFT, _TOP + _SIDE * (1 - at), f"{most * at:.2g}", "end", -6, 4) for at in (0.0, 0.5, 1.0)]
    for surface, colour in zip(found.surfaces, cycle(_LINES), strict=False):
        parts.append(drawn(surface.shares(surface.before), colour, ' stroke-dasharray="4 4"'))
        parts.append(drawn(surface.shares(surface.after), colour, ""))
    return "".join(parts)


def _legend(found: Landscape) -> str:
    """The bands, if there is a plane, and the lines."""
    told = ("Loss, as a share of what the best", "single answer to all samples loses")
    parts = [f'<text class="size" x="{_LEFT}" y="{18 + 18 * row}">{line}</text>' for row, line in enumerate(told)]
    ends = [f"{end:.2g}" for end in _edges(found)] if found.xs.size else []
    bands = [*(f"to {end}" for end in ends), *(f"above {end}" for end in ends[-1:])]
    for row, (colour, name) in enumerate(zip(BANDS, bands, strict=False)):
        top = _TOP + 20 * row
        parts.append(f'<rect x="{_LEFT}" y="{top}" width="28" height="20" fill="{colour}"/>')
        parts.append(f'<text class="size" x="{_LEFT + 36}" y="{top + 14}">{name}</text>')
    for row, (surface, colour) in enumerate(zip(found.surfaces, cycle(_LINES), strict=False)):
        x, y = _LEFT + (120 if bands else 0), _TOP + 10 + 20 * row
        parts.append(f'<path d="M{x} {y}h24" stroke-width="3" style="stroke:var(--{colour})"/>')
        parts.append(f'<text class="size" x="{x + 30}" y="{y + 4}">{text(clamped(surface.name, 16))}</text>')
    return "".join(parts)
