"""What ``check`` says of a merge stands on its page: of the file as it was written, on a few samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from onnxmerge import merge
from onnxmerge.api.check_merge import ASKED, check_merge
from onnxmerge.report.page import merge_page
from tests.checking.reports import EMPTY, REPORT
from tests.command_line import Cli
from tests.graphs import build, normal
from tests.report.test_page import CALIB, merged, mlp, require_sound

OVER_BATCH = """(float[n,6] x) => (float[n,3] y) {
    h = MatMul(x, w1)  m = ReduceMean<axes=[0], keepdims=1>(h)  s = Sub(h, m)  r = Relu(s)  y = MatMul(r, w2)
}"""


def parents(folder: Path, graph: str = "") -> list[Path]:
    paths = []
    for seed, name in enumerate(("a.onnx", "b.onnx")):
        model = build(graph, normal(w1=(6, 5), w2=(5, 3), seed=seed), opset=17) if graph else mlp(seed)
        (folder / name).write_bytes(model.SerializeToString())
        paths.append(folder / name)
    return paths


def test_run_says_what_check_says_of_the_written_file(tmp_path: Path, cli: Cli) -> None:
    parents(tmp_path)
    np.save(tmp_path / "x.npy", CALIB)
    told = ("--calib", "x.npy", "--method", "rebasin", "-o", "m.onnx", "--report", "m.html")
    assert cli("run", "a.onnx", "b.onnx", *told).returncode == 0
    page = (tmp_path / "m.html").read_text()
    found = require_sound(page)
    assert "check" in found.ids
    assert "<dt>Verdict of check</dt><dd><strong>passed</strong>" in page
    for gate in ("integrity.<wbr>runs", "interface.<wbr>parents", "behaviour.<wbr>finite", "provenance.<wbr>weights"):
        assert f"<th scope=row>{gate}</th><td>pass</td>" in page
    assert "<th scope=row>certificate.<wbr>groups</th><td>not selected</td>" in page
    assert ".onnxmerge-" not in page, "where a file waits to be published is no place"


@pytest.mark.parametrize("data", [True, False])
def test_a_merge_that_does_what_its_parents_do_wrong(data: bool, tmp_path: Path) -> None:  # noqa: FBT001
    paths = parents(tmp_path, OVER_BATCH)
    result = merge(paths, method="rebasin", calibration=CALIB if data else None, details=True)
    result.save(tmp_path / "m.onnx")
    found = check_merge(result, tmp_path / "m.onnx", paths, name="merged")
    assert (found.model, found.passed) == ("merged", False)
    assert [each.id for each in found.failures] == ["behaviour.batch-independent"]
    page = merge_page(result, "m.onnx", "c", found)
    require_sound(page)
    assert "<strong>failed</strong>" in page
    assert "samples change one another" in page


def test_what_cannot_be_read_has_not_passed(tmp_path: Path) -> None:
    result = merged()
    (tmp_path / "m.onnx").write_bytes(b"no model")
    found = check_merge(result, tmp_path / "m.onnx", [mlp(0), mlp(1)], name="merged")
    assert [(each.verdict, each.measured) for each in found.failures] == [("fail", "could not be evaluated")]


@pytest.mark.parametrize("report", [REPORT, EMPTY, replace(EMPTY, findings=())])
def test_every_report_has_a_sound_section(report: object) -> None:
    page = merge_page(merged(), "m.onnx", "c", report)  # type: ignore[arg-type]
    require_sound(page)
    assert "\u202e" not in page


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Samples of each run of any session."""
    seen: list[int] = []
    real = ort.InferenceSession.run

    def run(self: ort.InferenceSession, names: object, feeds: dict[str, np.ndarray], options: object = None) -> object:
        seen.append(len(next(iter(feeds.values()))))
        return real(self, names, feeds, options)

    monkeypatch.setattr(ort.InferenceSession, "run", run)
    yield seen
    assert seen


def test_it_costs_a_few_runs_of_the_merge_alone(tmp_path: Path, runs: list[int]) -> None:
    paths = parents(tmp_path)
    result = merge(paths, method="rebasin", calibration=np.tile(CALIB, (10, 1)), details=True)
    result.save(tmp_path / "m.onnx")
    runs.clear()
    assert check_merge(result, tmp_path / "m.onnx", paths, name="m").passed
    assert len(runs) == 5
    assert sum(runs) <= 3 + 3 + 1 + 2 + 32
    assert set(ASKED) == {"integrity", "interface", "behaviour", "provenance"}
