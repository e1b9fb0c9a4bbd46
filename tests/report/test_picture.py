"""The picture of a network: well-formed whatever its names are, each group in it once."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from onnxmerge.report.picture import Shade, mermaid, svg
from onnxmerge.units.flow import INPUT, OUTPUT, Flow, FlowGroup, Link

HOSTILE = "</svg><script>\"'&\x00\u202e"


def group(name: str, reads: tuple[str, ...], writes: tuple[str, ...], label: str = "", size: int = 8) -> FlowGroup:
    return FlowGroup(name, label or name, size, (), reads == writes == (), reads, writes, (name,))


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314  (it was made here)


def chain(count: int, label: str = "") -> Flow:
    ends = [INPUT, *(f"p{i}" for i in range(count)), OUTPUT]
    return Flow((), tuple(group(f"p{i}", (ends[i],), (ends[i + 2],), label or f"w{i}", i + 2) for i in range(count)))


def stream(blocks: int) -> Flow:
    trunk = FlowGroup("s", "stem", 6, (), stream=True, reads=(INPUT,), writes=(OUTPUT,), initializers=("stem",))
    rows = tuple(group(f"p{i}", ("s",), ("s",), f"block.{i}") for i in range(blocks))
    return Flow((trunk,), (Link("stem", INPUT, "s"), *rows, Link("head", "s", OUTPUT)))


@pytest.mark.parametrize("flow", [chain(0), chain(1), chain(4), stream(3), chain(2, HOSTILE)])
@pytest.mark.parametrize("folded", [True, False])
def test_pictures_are_well_formed(flow: Flow, folded: bool) -> None:  # noqa: FBT001  (a parameter of the test)
    root = parsed(svg(flow, folded=folded, alone=True))
    boxes = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("class") == "box"]
    folds = 2 if folded and flow.streams else 0
    assert len(boxes) == len(flow.groups) - folds
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))


def test_boxes_do_not_overlap_and_stay_inside() -> None:
    root = parsed(svg(stream(5), alone=True, folded=False))
    boxes = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("class") == "box"]
    spans = sorted((float(each.get("y", 0)), float(each.get("height", 0))) for each in boxes)
    assert all(y + height < after for (y, height), (after, _) in pairwise(spans))
    _, _, width, height = map(float, str(root.get("viewBox")).split())
    assert all(float(each.get("x", 0)) + float(each.get("width", 0)) <= width for each in boxes)
    assert spans[-1][0] + spans[-1][1] <= height


def test_a_folded_block_has_the_mean_similarity_and_says_how_often_it_comes() -> None:
    shades = {f"p{i}": Shade(0.2 * i, "solved") for i in range(3)}
    text = svg(stream(3), shades)
    assert "x 3</text>" in text
    assert 'style="--v:20%" data-d="solved"' in text
    assert 'href="#group-p0"' in text


def test_mermaid_holds_every_edge_and_no_name_as_it_is() -> None:
    text = mermaid(chain(2, HOSTILE))
    assert text.startswith("flowchart TD\n")
    assert [line.strip() for line in text.splitlines() if "-->" in line] == [
        "input --> g0",
        "g0 --> g1",
        "g1 --> output",
    ]
    assert not re.search(r"<(?!br/>)|\x00|\u202e", text)
    assert "  g0" in mermaid(stream(3))
    assert "x 3" in mermaid(stream(3))
