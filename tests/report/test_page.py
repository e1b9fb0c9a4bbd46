"""Pages: whole, alone, the same again, and safe whatever the names in a model are."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge import merge
from onnxmerge.api.describe import describe
from onnxmerge.api.outcome import MergeResult
from onnxmerge.pipeline.selection.search import Candidate
from onnxmerge.report.html import count, meter
from onnxmerge.report.page import merge_page, model_page
from tests.graphs import build, normal

CALIB = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\u202eb\x1b[31m"
VOID = {"meta", "input", "br", "wbr", "img", "link"}


class Page(HTMLParser):
    """What a page is made of. Raises where elements do not close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()
        self.texts: dict[str, str] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name == "href"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  (the base's own)
        self.tags[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts[self.open[-1] if self.open else ""] = data


def mlp(seed: int, name: str = "w") -> onnx.ModelProto:
    graph = "(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
    model = build(graph, normal(w1=(6, 5), w2=(5, 3), seed=seed))
    model.graph.initializer[0].name = model.graph.node[0].input[1] = name
    model.graph.node[0].name = name
    model.graph.output[0].name = model.graph.node[2].output[0] = f"y{name}"
    model.graph.name = f"g{seed}{name}"
    return model


def merged(name: str = "w", **how: Any) -> MergeResult:
    how = {"method": "mudsc-align", **how}
    return merge([mlp(0, name), mlp(1, name)], calibration=CALIB, details=True, **how)


def require_sound(page: str) -> Page:
    """One page, alone, in which every link leads somewhere, and no script but its own runs."""
    found = Page(page)
    assert [name for name, times in Counter(found.ids).items() if times > 1] == []
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert found.tags["script"] == 2
    assert not {tag for tag, name, _ in found.attributes if name.startswith("on") or name == "src"}
    assert not found.tags.keys() & {"img", "iframe", "object", "link", "base"}
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\((?!#)|@import", page)
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    return found


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"method": "auto"},
        {"method": "zipit", "refine": "ls", "answer": "ensemble"},
        {"method": "zipit", "width": 1.5},
        {"heads": "separate"},
        {"method": "average"},
    ],
)
def test_every_kind_of_merge_has_a_sound_page(how: dict[str, Any]) -> None:
    result = merged(**how)
    found = require_sound(merge_page(result, "m.onnx", "onnxmerge run a.onnx b.onnx"))
    assert {"answer", "again", "weights", "network", "groups", "drift", "times"} <= set(found.ids)
    assert {f"group-{group.id}" for group in result.report.groups} <= set(found.ids)


def test_a_candidate_without_a_known_alpha_is_told_by_its_options() -> None:
    result = merged(method="auto")
    assert result.report.search is not None
    search = replace(result.report.search, candidates=(Candidate("lean", None, 0.5, None, (("lean", 0.8),)),), chosen=0)
    page = merge_page(replace(result, report=replace(result.report, search=search)), "m.onnx", "")
    require_sound(page)
    assert "lean, lean 0.8" in page


def test_names_stay_text() -> None:
    result = merged(HOSTILE)
    page = merge_page(result, HOSTILE, HOSTILE)
    require_sound(page)
    assert "<img" not in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "&lt;/script&gt;&lt;img" in page


def test_a_model_that_says_anything_of_itself() -> None:
    model = mlp(0, HOSTILE)
    for key, value in (("onnxmerge.method", HOSTILE), (f"onnxmerge.{HOSTILE}", "1"), ("onnxmerge.recipe", "[1]")):
        model.metadata_props.add(key=key, value=value)
    page = model_page(describe(model))
    require_sound(page)
    assert "<img" not in page


def test_the_same_merge_gives_the_same_page_but_for_times() -> None:
    one, other = (
        replace(each, report=replace(each.report, seconds={}, peak_memory=None)) for each in (merged(), merged())
    )
    assert merge_page(one, "m.onnx", "c") == merge_page(other, "m.onnx", "c")


def test_without_details_what_is_known_is_shown() -> None:
    result = merge([mlp(0), mlp(1)], method="rebasin")
    found = require_sound(merge_page(result, "m.onnx", "c"))
    assert {"answer", "again", "network", "groups", "times"} <= set(found.ids)


@pytest.mark.parametrize(
    ("value", "told"), [(0, "0"), (9_999, "9,999"), (45_160, "45.2 k"), (1_217_696, "1.22 M"), (4_100_000_000, "4.1 G")]
)
def test_large_numbers_are_short(value: int, told: str) -> None:
    assert count(value) == told


@pytest.mark.parametrize(("value", "width"), [(0.5, "50.0%"), (-1.0, "0.0%"), (7.0, "100.0%")])
def test_bars_stay_inside(value: float, width: str) -> None:
    assert f"--v:{width}" in meter(value)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_no_bar_for_what_is_not_known(value: float | None) -> None:
    assert meter(value) == "-"
