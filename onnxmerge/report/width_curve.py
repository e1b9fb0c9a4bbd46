"""How well networks of several widths agree with their parents, by what they cost: a table, and the curve as a picture.

The curve is a line through the networks that were tried, the chosen one marked; dashed lines are what had to be reached
and what the ensemble itself reaches. What a network costs lies on a logarithmic scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from onnxmerge.api.summary import width_heads, width_rows, widths_found
from onnxmerge.pipeline.selection.widening import WidthsReport
from onnxmerge.report.html import bullets, paragraph, scrolled, table, text
from onnxmerge.report.section import Section

_WIDTH, _HEIGHT = 420, 270
_LEFT, _TOP, _ACROSS, _DOWN = 62, 14, 330, 196
"""Of the picture; where the plot in it begins, and its sides."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where costs and scores lie in the picture."""

    costs: tuple[float, float]
    scores: tuple[float, float]

    def x(self, cost: float) -> float:
        low, high = map(math.log, self.costs)
        return _LEFT + _ACROSS * (0.5 if high == low else (math.log(cost) - low) / (high - low))

    def y(self, score: float) -> float:
        low, high = self.scores
        return _TOP + _DOWN * (1 - (score - low) / (high - low))


def widths_section(found: WidthsReport) -> Section:
    """The networks that were tried as a part of a page."""
    heads = width_heads(found)
    rows = [
        (*row, "chosen" if index == found.chosen else "", found.candidates[index].widths)
        for index, row in enumerate(width_rows(found))
    ]
    told = table((*heads, "", "--width"), rows, "Widths", numbers=range(len(heads)), long=(len(heads) + 1,))
    about = f"Judged by {found.criterion} on {found.samples} held-out samples. {widths_found(found)}."
    body = paragraph(about) + scrolled(width_curve(found), "Agreement by size") + told + bullets(found.notes)
    return Section("widths", "Widths that were tried", body)


def width_curve(found: WidthsReport) -> str:
    """The picture as SVG text, for a page with the styles of pictures."""
    named = {"parameters": "parameters", "flops": "FLOPs a sample"}[found.smallest_in]
    points = [(max(getattr(each, found.smallest_in), 1), each.score) for each in found.candidates]
    shown = [(cost, score) for cost, score in points if math.isfinite(score)]
    lines = {"wanted": found.least, **({} if found.ensemble is None else {"the ensemble": found.ensemble})}
    every = [*(score for _, score in shown), *(level for level in lines.values() if math.isfinite(level))] or [0.0]
    room = 0.08 * (max(every) - min(every)) or 0.01
    costs = [cost for cost, _ in points]
    scale = _Scale((min(costs), max(costs)), (min(every) - room, max(every) + room))
    path = " ".join(f"{scale.x(cost):.1f},{scale.y(score):.1f}" for cost, score in shown)
    parts = [
        f'<rect class="box" x="{_LEFT}" y="{_TOP}" width="{_ACROSS}" height="{_DOWN}"/>',
        *(_level(name, scale.y(level), level) for name, level in lines.items() if math.isfinite(level)),
        f'<polyline points="{path}" fill="none" stroke-width="2" style="stroke:var(--hi)"/>',
        *_marks(found, scale),
        f'<text class="size" text-anchor="middle" x="{_LEFT + _ACROSS // 2}" y="{_HEIGHT - 8}">{named}</text>',
    ]
    for level in (min(every), max(every)):
        at = f'x="{_LEFT - 6}" y="{scale.y(level) + 4:.1f}"'
        parts.append(f'<text class="size" text-anchor="end" {at}>{level:.3f}</text>')
    for cost in dict.fromkeys((min(costs), max(costs))):
        at = f'x="{scale.x(cost):.1f}" y="{_TOP + _DOWN + 18}"'
        parts.append(f'<text class="size" text-anchor="middle" {at}>{cost:,}</text>')
    said = text(f"{found.criterion} by {named}: " + ", ".join(f"{cost:,}: {score:.4f}" for cost, score in points))
    return (
        f'<svg class="picture" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{said}">{"".join(parts)}</svg>'
    )


def _level(name: str, y: float, level: float) -> str:
    return (
        f'<path d="M{_LEFT} {y:.1f}h{_ACROSS}" fill="none" stroke-dasharray="4 4" style="stroke:var(--soft)"/>'
        f'<text class="size" x="{_LEFT + 6}" y="{y - 4:.1f}">{name} {level:.4f}</text>'
    )


def _marks(found: WidthsReport, scale: _Scale) -> Iterator[str]:
    """A dot for each network; the chosen one is a diamond, told apart without colours."""
    for index, each in enumerate(found.candidates):
        if not math.isfinite(each.score):
            continue
        x, y = scale.x(max(getattr(each, found.smallest_in), 1)), scale.y(each.score)
        chosen = index == found.chosen
        drawn = "M0 -8l8 8l-8 8l-8 -8z" if chosen else "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z"
        yield f'<path transform="translate({x:.1f} {y:.1f})" d="{drawn}" style="fill:var(--hi);stroke:var(--card)"/>'
