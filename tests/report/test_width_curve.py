"""The curve of widths that were tried: a sound picture, whatever was tried, and a table that says the same."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from onnxmerge.api.summary import width_heads, width_rows, widths_found
from onnxmerge.pipeline.selection.widening import WidthsCandidate, WidthsReport
from onnxmerge.report.width_curve import width_curve, widths_section
from tests.report.test_page import Page

TRIED = (
    WidthsCandidate("1", 1000, 50_000, 0.80),
    WidthsCandidate("p0=1.5,p1=1.25", 1500, 90_000, 0.86),
    WidthsCandidate("2", 4000, 200_000, 0.87),
)
FOUND = WidthsReport(
    criterion="agreement with the ensemble",
    samples=300,
    smallest_in="parameters",
    within=1.0,
    ensemble=0.868,
    least=0.858,
    reached=True,
    candidates=TRIED,
    chosen=1,
    groups=("p0", "p1", "p2"),
    kept=("p3",),
)


def drawn(found: WidthsReport) -> ET.Element:
    return ET.fromstring(width_curve(found))  # noqa: S314 - our own


def numbers(element: ET.Element) -> list[tuple[float, float]]:
    (line,) = element.iter("polyline")
    return [(float(x), float(y)) for x, y in (point.split(",") for point in line.attrib["points"].split())]


def test_more_costs_lie_to_the_right_and_better_scores_above() -> None:
    points = numbers(drawn(FOUND))
    assert len(points) == 3
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    assert points[1][0] - points[0][0] < points[2][0] - points[1][0]  # 1.5 is nearer to 1 than to 4, in the logarithm


def test_the_chosen_one_and_what_was_wanted_are_marked() -> None:
    element = drawn(FOUND)
    marks = [each for each in element.iter("path") if "transform" in each.attrib]
    assert [each.attrib["d"].startswith("M0 -8") for each in marks] == [False, True, False]
    told = [each.text for each in element.iter("text")]
    assert "wanted 0.8580" in told
    assert "the ensemble 0.8680" in told
    assert "1,500: 0.8600" in element.attrib["aria-label"]


@pytest.mark.parametrize(
    "found",
    [
        replace(FOUND, candidates=TRIED[:1], chosen=0),
        replace(FOUND, candidates=TRIED[:1], chosen=0, ensemble=None, least=0.8),
        replace(FOUND, candidates=(TRIED[0], replace(TRIED[2], agreement=math.nan)), chosen=0),
        replace(FOUND, candidates=(replace(TRIED[0], agreement=math.nan),), chosen=0, ensemble=None, least=-math.inf),
        replace(FOUND, smallest_in="flops"),
        replace(FOUND, candidates=tuple(replace(each, flops=0) for each in TRIED), smallest_in="flops"),
        replace(FOUND, candidates=tuple(replace(each, accuracy=0.5) for each in TRIED), ensemble=None),
        replace(FOUND, notes=("<b>keep their width</b>",)),
    ],
)
def test_whatever_was_tried_the_section_is_sound(found: WidthsReport) -> None:
    drawn(found)
    section = widths_section(found)
    assert Page(section.body).tags["svg"] == 1
    assert "nan" not in width_curve(found).partition("<rect")[2]
    assert "<b>" not in section.body


def test_rows_say_what_it_costs() -> None:
    assert width_heads(FOUND)[-1] == "agreement"
    assert [*width_rows(FOUND)] == [
        ("1,000", "1.00x", "50,000", "0 of 3", "0.8000"),
        ("1,500", "1.50x", "90,000", "2 of 3", "0.8600"),
        ("4,000", "4.00x", "200,000", "3 of 3", "0.8700"),
    ]
    assert widths_found(FOUND).startswith("1.50 times the parameters of a parent, the least of 3 tried within 1 point ")
    labelled = replace(FOUND, candidates=tuple(replace(each, accuracy=0.5) for each in TRIED), criterion="accuracy")
    assert [*width_rows(labelled)][1][-2:] == ("0.8600", "0.5000")
    assert width_heads(labelled)[-1] == "accuracy"
