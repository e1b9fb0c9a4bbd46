"""Merges run wherever their parents do, and docs/runtimes.md says where."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools import runtimes
from tools.environments import Absent, cache
from tools.runtimes import BAR, CASES, NEWEST, RUNTIMES, Answer, Found, measure, off, page

GOOD, BAD, NONE = Answer(1e-7), Answer(0.5), Answer(error="no operator | Frobnicate")


def found(a: Answer, merged: Answer) -> Found:
    models = {"a": {"opencv": a}, "b": {"opencv": GOOD}, "merged": {"opencv": merged}}
    return Found({NEWEST: "1.32.0", "opencv": "5.0.0"}, {"cuda": "no GPU here"}, {"digits": models})


@pytest.mark.parametrize(
    ("a", "merged", "cell", "failed"),
    [
        (GOOD, GOOD, "1e-07", []),
        (GOOD, Answer(0.0), "the same", []),
        (GOOD, BAD, "**5e-01**", ["digits in opencv: 5.0e-01"]),
        (GOOD, Answer(float("nan")), "**nan**", ["digits in opencv: nan"]),
        (GOOD, NONE, r"no operator \| Frobnicate", [r"digits in opencv: no operator | Frobnicate"]),
        (NONE, NONE, r"parents too: no operator \| Frobnicate", []),
        (BAD, BAD, "parents too: **5e-01**", []),
    ],
)
def test_what_a_merge_does_worse_than_its_parents_is_its_failure(
    a: Answer, merged: Answer, cell: str, failed: list[str]
) -> None:
    measured = found(a, merged)
    assert measured.failed() == failed
    assert f"| digits | {cell} |" in page(measured)
    assert "| ONNX Runtime, CUDA | no GPU here |" in page(measured)


def test_how_far_outputs_are_apart() -> None:
    wanted = np.array([1.0, -2.0], np.float32)
    assert off(wanted, np.array([1.5, -2.0], np.float32)) == 0.25
    assert off(wanted, np.array([np.nan, -2.0], np.float32)) == np.inf
    assert off(wanted, wanted[:1]) == np.inf
    assert off(np.array([np.nan, -2.0], np.float32), wanted) == np.inf


def test_a_model_that_kills_a_runtime_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = tmp_path / "runner.py"
    runner.write_text(
        "import json, os, sys\n"
        "asked, result = sys.argv[1:]\n"
        "if 'bad' in open(asked).read(): os.abort()\n"
        "open(result, 'w').write(json.dumps({'version': '1.0', 'errors': {}}))\n"
    )
    monkeypatch.setattr(runtimes, "environment", lambda *_: [sys.executable, "-S", str(runner)])
    jobs: list[dict[str, Any]] = [{"name": name, "outputs": {}} for name in ("good", "bad")]
    version, errors = runtimes._run("opencv", jobs, tmp_path, tmp_path)
    assert (version, list(errors)) == ("1.0", ["bad"])
    with pytest.raises(RuntimeError, match="opencv: ended with"):
        runtimes._run("opencv", jobs[1:], tmp_path, tmp_path)


BROWSER = """#!{python} -S
import sys, urllib.error, urllib.request
address = sys.argv[-1]
for path in ("", "npy.mjs", "jobs", "modules/onnxruntime-web/dist/x.mjs", "file?model", "file?output", "result"):
    try:
        urllib.request.urlopen(address + path.replace("file?", "file?{folder}/"), b"posted")
    except urllib.error.HTTPError:
        pass
"""


def test_a_page_writes_outputs_and_the_result_only(checkout: Path, tmp_path: Path) -> None:
    for file in (*(checkout / "tools" / "runners").glob("web.*"), checkout / "tools" / "runners" / "npy.mjs"):
        shutil.copy(file, tmp_path)
    dist = tmp_path / "modules" / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    kept = [dist / "x.mjs", tmp_path / "model", tmp_path / "web.html", tmp_path / "npy.mjs", tmp_path / "jobs"]
    for file in kept[:2]:
        file.write_text("own")
    job = {"model": str(tmp_path / "model"), "inputs": {}, "outputs": {"y": str(tmp_path / "output")}}
    kept[-1].write_text(json.dumps([job]))
    browser = tmp_path / "browser"
    browser.write_text(BROWSER.format(python=sys.executable, folder=tmp_path))
    browser.chmod(0o755)
    before = [file.read_bytes() for file in kept]
    command = [browser, tmp_path / "modules", tmp_path / "jobs", tmp_path / "result"]
    subprocess.run([sys.executable, "-S", tmp_path / "web.py", *command], check=True, timeout=60)
    assert [file.read_bytes() for file in kept] == before
    assert (tmp_path / "output").read_text() == (tmp_path / "result").read_text() == "posted"


def test_the_page_has_what_is_measured(checkout: Path) -> None:
    text = (checkout / "docs" / "runtimes.md").read_text(encoding="utf-8")
    assert not [name for name in CASES if f"\n| {name} | " not in text]
    assert not [name for name, runtime in RUNTIMES.items() if f"\n| {runtime.label} | " not in text]


@pytest.mark.parametrize(
    ("runner", "said"),
    [
        ("raise ImportError('libfoo.so: cannot | open')", "libfoo.so: cannot | open"),
        ("hangs", "opencv: no answer within 900 seconds"),
    ],
)
def test_a_runtime_that_is_broken_leaves_the_others(
    runner: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = (
        "import json, sys; open(sys.argv[2], 'w').write(json.dumps({'version': '1.0', 'errors': {'digits/a': 'e'}}))"
    )
    monkeypatch.setattr(runtimes, "_merged", lambda *_: [Path(f"{each}.onnx") for each in ("a", "b", "merged")])
    monkeypatch.setattr(runtimes, "_job", lambda *_: {"name": "digits/a", "outputs": {}})
    code = {NEWEST: version, "openvino": version, "opencv": runner}
    monkeypatch.setattr(runtimes, "environment", lambda name, _: [sys.executable, "-S", "-c", code[name]])
    started = subprocess.run

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "hangs" in command:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return started(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    measured = measure(["opencv", "openvino"], ["digits"], tmp_path, tmp_path)
    assert measured.versions == {NEWEST: "1.0", "openvino": "1.0"}
    assert said in measured.broken["opencv"]
    assert [failure for failure in measured.failed() if said in failure]
    assert f"| OpenCV DNN | failed: {measured.broken['opencv']}".replace("cannot |", r"cannot \|") in page(
        Found(measured.versions, {}, {}, measured.broken)
    )
    code[NEWEST] = runner
    with pytest.raises(Absent):
        measure([], ["digits"], tmp_path, tmp_path)


@pytest.fixture(scope="module")
def measured(checkout: Path) -> Found:
    shared = Path(os.environ.get("ONNXMERGE_SHARED") or checkout.parent / "shared").resolve()
    try:
        return measure(list(RUNTIMES), ["digits, two heads", "digits, half shared", "cifar5-vit"], cache(), shared)
    except Absent as reason:
        pytest.skip(str(reason))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_agrees(name: str, measured: Found) -> None:
    if name in measured.absent:
        pytest.skip(f"{name}: {measured.absent[name]}")
    assert name not in measured.broken, measured.broken[name]
    for case in ("digits, two heads", "digits, half shared"):
        for answers in measured.answers[case].values():
            assert answers[name].off <= BAR, answers[name]
    assert not [failure for failure in measured.failed() if f" in {name}:" in failure]
