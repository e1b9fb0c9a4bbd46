"""The network as a picture: streams as vertical lanes, other groups as boxes beside them, blocks that repeat folded.

The same layout is drawn as SVG and told as Mermaid. A picture is narrow, so that a phone shows it whole, and grows
downwards with the network. Every name comes from a file that anybody may have made, and is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from onnxmerge.report.styles import PICTURE
from onnxmerge.text import clamped, printable
from onnxmerge.units.flow import INPUT, OUTPUT, Flow, FlowGroup, Link

PICTURES = (".svg", ".mmd")

_LANE, _BOX, _ARC = 16, 212, 64
"""Widths: of a lane, of a box, and of the room for what passes by at its right."""

_GROUP_ROW, _LINK_ROW, _GAP = 42, 24, 8
"""Heights, and the gap between rows."""

_LONGEST = 26
"""Characters of a name in a box."""


@dataclass(frozen=True, slots=True)
class Shade:
    """What a group is coloured by: its similarity (None: unknown), and what was done to most of its weights."""

    similarity: float | None = None
    done: str = ""


@dataclass(slots=True)
class _Place:
    """Where a row stands: its group or link, its top and height, and how often it comes."""

    row: FlowGroup | Link
    top: int
    height: int
    stands_for: tuple[str, ...]

    @property
    def middle(self) -> int:
        return self.top + self.height // 2


@dataclass(slots=True)
class _Layout:
    """All rows, streams with their lanes, and the runs of rows that repeat (first top, last bottom, times)."""

    places: list[_Place] = field(default_factory=list)
    lanes: dict[str, int] = field(default_factory=dict)
    spans: dict[str, list[int]] = field(default_factory=dict)
    repeats: list[tuple[int, int, int]] = field(default_factory=list)
    shown: dict[str, _Place] = field(default_factory=dict)
    bottom: int = 0


def pictured(flow: Flow, suffix: str) -> str:
    """The picture as files of this ending hold it, one of ``PICTURES``, blocks that repeat folded."""
    return svg(flow, alone=True) if suffix == ".svg" else mermaid(flow)


def svg(flow: Flow, shades: Mapping[str, Shade] | None = None, *, folded: bool = True, alone: bool = False) -> str:
    """The picture as SVG text: for a page with ``PICTURE`` in its styles, or a file that stands ``alone``.

    In a page every box leads to ``#group-ID``. ``shades`` are by group id.
    """
    layout = _laid_out(flow, folded=folded)
    left = 14 + _LANE * (1 + max(layout.lanes.values(), default=-1))
    width, height = left + 16 + _BOX + _ARC, layout.bottom + 6
    parts = [*_lanes(layout, shades or {}), *_repeats(layout, left)]
    for place in layout.places:
        parts += _row(place, layout, left, shades or {}, linked=not alone)
    parts += _arcs(layout, left)
    told = f"{len(flow.groups)} groups of units, {len(flow.streams)} of them streams, in the order of the network"
    style = f"<style>{PICTURE}</style>" if alone else ""
    namespace = ' xmlns="http://www.w3.org/2000/svg"' if alone else ""
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path class="tip" d="M0 0 8 4 0 8z"/></marker></defs>'
    )
    return (
        f'<svg{namespace} class="picture" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="group" aria-label="{told}">{style}{tip}{"".join(parts)}</svg>\n'
    )


def mermaid(flow: Flow) -> str:
    """The picture as a Mermaid flowchart, blocks that repeat folded."""
    layout = _laid_out(flow, folded=True)
    lines = ["flowchart TD", f'  {INPUT}(["{INPUT}"])', f'  {OUTPUT}(["{OUTPUT}"])']
    ids = {name: f"g{index}" for index, name in enumerate(layout.shown)} | {INPUT: INPUT, OUTPUT: OUTPUT}
    edges: dict[tuple[str, str], None] = {}
    told: set[str] = set()
    for place in layout.places:
        row = place.row
        if isinstance(row, Link):
            edges[ids[row.reads], ids[row.writes]] = None
            continue
        shape = ("[[", "]]") if row.stream else ("[", "]")
        times = f"<br/>x {len(place.stands_for)}" if len(place.stands_for) > 1 else ""
        if ids[row.id] not in told:
            text = f"{_in_mermaid(row.name)}<br/>{_in_mermaid(_size(row))}{times}"
            lines.append(f'  {ids[row.id]}{shape[0]}"{text}"{shape[1]}')
            told.add(ids[row.id])
        if not row.stream:
            edges |= dict.fromkeys((ids[each], ids[row.id]) for each in row.reads if each in ids)
            edges |= dict.fromkeys((ids[row.id], ids[each]) for each in row.writes if each in ids)
    return "\n".join([*lines, *(f"  {one} --> {other}" for one, other in edges), ""])


def _in_mermaid(text: str) -> str:
    """Text inside a quoted label: whatever Mermaid or HTML could read is written as a code."""
    shown = clamped(printable(text), 2 * _LONGEST)
    return "".join(each if each.isalnum() or each in " ._-/,()+\u00b7" else f"#{ord(each)};" for each in shown)


def _laid_out(flow: Flow, *, folded: bool) -> _Layout:
    """Rows one under another; a stream begins with a row of its own, right before the first that touches it."""
    found, left = _Layout(bottom=4), {stream.id: stream for stream in flow.streams}

    def put(row: FlowGroup | Link, height: int, stands_for: tuple[str, ...]) -> _Place:
        place = _Place(row, found.bottom, height, stands_for)
        found.places.append(place)
        found.bottom += height + _GAP
        return place

    def begin(names: Sequence[str]) -> None:
        for name in names:
            if name in left:
                found.shown[name] = begun = put(left.pop(name), _GROUP_ROW, (name,))
                found.spans[name] = [begun.middle, begun.middle]

    for block in flow.blocks(folded=folded):
        begin([name for row in block.rows for name in _touched(row)])
        top = found.bottom
        for index, row in enumerate(block.rows):
            every = [rows[index] for rows in block.every]
            ids = tuple(each.id for each in every if isinstance(each, FlowGroup))
            place = put(row, _LINK_ROW if isinstance(row, Link) else _GROUP_ROW, ids)
            found.shown |= dict.fromkeys(ids, place)
            for name in _touched(row):
                if name in found.spans:
                    found.spans[name][1] = place.middle
        if block.times > 1:
            found.repeats.append((top, found.bottom - _GAP, block.times))
    begin(list(left))
    ends: list[int] = []
    for name, (start, end) in found.spans.items():  # lanes are used again where their stream has ended
        lane = next((index for index, last in enumerate(ends) if last < start), len(ends))
        ends[lane : lane + 1] = [end]
        found.lanes[name] = lane
    return found


def _touched(row: FlowGroup | Link) -> tuple[str, ...]:
    return (row.reads, row.writes) if isinstance(row, Link) else (*row.reads, *row.writes)


def _lane_x(layout: _Layout, name: str) -> int:
    return 12 + _LANE * layout.lanes[name]


def _lanes(layout: _Layout, shades: Mapping[str, Shade]) -> list[str]:
    return [
        f'<path class="lane c" {_shade(shades.get(name))} d="M{_lane_x(layout, name)} {start}V{max(end, start + 12)}"/>'
        for name, (start, end) in layout.spans.items()
    ]


def _repeats(layout: _Layout, left: int) -> list[str]:
    x, width = left + 8, _BOX + 16
    return [
        f'<rect class="repeat" x="{x}" y="{top - 5}" width="{width}" height="{bottom - top + 10}" rx="8"/>'
        f'<text class="times" x="{x + width + 6}" y="{(top + bottom) // 2 + 5}">x {times}</text>'
        for top, bottom, times in layout.repeats
    ]


def _row(place: _Place, layout: _Layout, left: int, shades: Mapping[str, Shade], *, linked: bool) -> list[str]:
    row, x = place.row, left + 16
    if isinstance(row, Link):
        ends = [name for name in (row.reads, row.writes) if name in layout.lanes]
        dots = [
            f'<circle class="dot" cx="{_lane_x(layout, name)}" cy="{place.middle}" r="3.5"/>'
            f'<path class="edge" d="M{_lane_x(layout, name)} {place.middle}H{x}"/>'
            for name in ends
        ]
        told = f"{_shown(row.name, _LONGEST)}  {escape(f'{row.reads} → {row.writes}')}"
        title = f"<title>{_shown(row.name, 200)}</title>"
        return [*dots, f'<text class="link" x="{x + 6}" y="{place.middle + 4}">{title}{told}</text>']
    shade = _of_all([shades[name] for name in place.stands_for if name in shades])
    value = "" if shade.similarity is None else f"{shade.similarity:.2f}"
    every = row.id if len(place.stands_for) < 2 else f"{row.id} to {place.stands_for[-1]}"
    about = f"{row.name}: {every}, {_size(row)}{f', similarity {value}' if value else ''}"
    box = (
        f"<title>{_shown(about, 300)}</title>"
        f'<rect class="box" x="{x}" y="{place.top}" width="{_BOX}" height="{place.height}" rx="6"/>'
        f'<rect class="c" {_shade(shade)} x="{x}" y="{place.top}" width="7" height="{place.height}" rx="3"/>'
        f'<text class="name" x="{x + 15}" y="{place.top + 17}">{_shown(row.name, _LONGEST)}</text>'
        f'<text class="size" x="{x + 15}" y="{place.top + 34}">{_shown(_size(row), 34)}</text>'
        f'<text class="value" x="{x + _BOX - 8}" y="{place.top + 34}">{value}</text>'
    )
    link = f'<a href="#group-{escape(row.id)}">{box}</a>' if linked else f"<g>{box}</g>"
    return [*_joins(place, row, layout, x), link]


def _joins(place: _Place, row: FlowGroup, layout: _Layout, x: int) -> list[str]:
    """The lines between a box and the lanes that it reads and writes; of a stream's own row, that to its lane."""
    if row.stream:
        return [f'<path class="edge" d="M{_lane_x(layout, row.id)} {place.middle}H{x}"/>']
    reads = [
        f'<path class="edge" marker-end="url(#tip)" d="M{_lane_x(layout, name)} {place.middle - 8}H{x}"/>'
        for name in row.reads
        if name in layout.lanes
    ]
    return reads + [
        f'<path class="edge" marker-end="url(#tip)" d="M{x} {place.middle + 8}H{_lane_x(layout, name)}"/>'
        for name in row.writes
        if name in layout.lanes
    ]


def _arcs(layout: _Layout, left: int) -> list[str]:
    """The lines from box to box, straight to the next and around all others, and marks for what is fixed."""
    right, center, found = left + 16 + _BOX, left + 16 + _BOX // 2, []
    order = {id(place): index for index, place in enumerate(layout.places)}
    drawn: set[tuple[int, int]] = set()
    for place in layout.places:
        row = place.row
        if isinstance(row, Link) or row.stream:
            continue
        for name in row.reads:
            other = layout.shown.get(name)
            if other is None or name in layout.lanes or other.top >= place.top or (other.top, place.top) in drawn:
                continue
            drawn.add((other.top, place.top))
            span = order[id(place)] - order[id(other)]
            if span == 1:
                start, end = other.top + other.height, place.top
                found.append(f'<path class="edge" marker-end="url(#tip)" d="M{center} {start}V{end}"/>')
                continue
            bulge = right + min(10 + 5 * span, _ARC - 6)
            found.append(
                f'<path class="edge" marker-end="url(#tip)" d="M{right} {other.middle + 8}C{bulge} {other.middle + 8} '
                f'{bulge} {place.middle - 8} {right} {place.middle - 8}"/>'
            )
        for name, y in ((INPUT, place.middle - 4), (OUTPUT, place.middle + 12)):
            if name in (row.reads if name == INPUT else row.writes):
                told = "← input" if name == INPUT else "→ output"
                found.append(f'<text class="link" x="{right + 6}" y="{y}">{told}</text>')
    return found


def _of_all(shades: Sequence[Shade]) -> Shade:
    """The mean similarity, and what was done to most."""
    known = [each.similarity for each in shades if each.similarity is not None]
    done = [each.done for each in shades]
    return Shade(sum(known) / len(known) if known else None, max(done, key=done.count, default=""))


def _shade(shade: Shade | None) -> str:
    found = shade or Shade()
    done = f' data-d="{escape(found.done)}"' if found.done else ""
    if found.similarity is None:
        return f'data-unknown=""{done}'
    return f'style="--v:{100 * max(0.0, min(1.0, found.similarity)):.0f}%"{done}'


def _size(row: FlowGroup) -> str:
    if not row.inner:
        return f"{row.id} · {row.size} units{', stream' if row.stream else ''}"
    return f"{row.id} · {row.size} x ({' + '.join(str(size) for _, size in row.inner)}) units"


def _shown(text: str, longest: int) -> str:
    return escape(clamped(printable(text), longest))
