"""Results as notebooks show them."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnxmerge
from onnxmerge.api.notebook import shown_in_notebook, table


def test_a_merge_shows_its_summary(digits: Path, tmp_path: Path) -> None:
    shutil.copy(digits / "a.onnx", tmp_path / "<i>.onnx")
    result = onnxmerge.merge([tmp_path / "<i>.onnx", digits / "b.onnx"], method="average")
    html = result._repr_html_()
    assert "&lt;i&gt;.onnx + " in html
    assert "<i>" not in html
    assert "<td>merged</td><td>45,224</td>" in html
    assert "<td>statistics</td><td>none</td>" in html
    assert "there is no calibration data</li>" in html


def test_scores_show_their_table(digits: Path) -> None:
    test = digits / "test.npz"
    found = onnxmerge.evaluate([digits / "a.onnx"], test, labels=test, tasks=digits / "task.json")
    html = found._repr_html_()
    assert "<th>model</th><th>0-4</th><th>5-9</th>" in html
    assert "<td>a.onnx</td><td>100.0 ±1.4</td>" in html


def test_without_heads_a_table_has_no_head() -> None:
    assert table(("", ""), [("a", "1")]) == "<table><tbody><tr><td>a</td><td>1</td></tr></tbody></table>"
    assert shown_in_notebook("t", []) == "<div><strong>t</strong></div>"
