"""The benchmark knows what a merge must compute, and writes a page of what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxmerge.model import read_network
from tools.benchmark.floor import measure, work
from tools.benchmark.jobs import JOBS
from tools.benchmark.page import page

WIDTH, HIDDEN, BLOCKS, WORDS, HEADS, DEPTH = 64, 128, 2, 256, 4, 16


def test_what_a_merge_must_compute_is_counted_from_its_groups(tmp_path: Path) -> None:
    job = JOBS["tiny/mudsc-align"]
    models = job.case.models(tmp_path, 2)
    assert job.case.data is not None
    data = job.case.data(tmp_path)
    found = work(models, data, 32, "mudsc-align", None)

    inner = 2 * WIDTH * WIDTH * WIDTH  # values, and what the output projection reads: every unit of every head
    heads = 2 * HEADS * WIDTH * WIDTH  # queries and keys, whose units are turned in pairs: heads as a whole
    stream = WIDTH * WIDTH * (2 * WORDS + BLOCKS * (4 * WIDTH + 3 * HIDDEN) + 2 * BLOCKS + 1)
    hidden = HIDDEN * HIDDEN * 3 * WIDTH
    assert found.by_weights == stream + BLOCKS * (inner + heads + hidden)
    assert found.by_activations > 0
    assert found.assignments == {WIDTH: 1, HIDDEN: BLOCKS, HEADS: BLOCKS, DEPTH: HEADS * HEADS * BLOCKS}

    assert work(models, data, 32, "rebasin", None).by_activations == 0
    floor = measure(models, data, 32, found, tmp_path, None)
    assert floor.seconds >= floor.forward > 0
    assert not (tmp_path / "written").exists()


def test_what_fine_tunes_need_is_counted_from_their_matrices(tmp_path: Path) -> None:
    job = JOBS["tiny-tuned/tsv-m"]
    models = job.case.models(tmp_path, job.models)
    assert job.case.base is not None
    base = job.case.base(tmp_path)
    assert len({path.read_bytes() for path in (base, *models)}) == 4
    found = work(models, None, 0, "tsv-m", base)
    assert (found.by_weights, found.by_activations, found.assignments) == (0, 0, {})
    square, wide, part = 4 * BLOCKS, 3 * BLOCKS, WIDTH // 3
    assert found.decompositions == {
        (WIDTH, WIDTH, part): 3 * square,
        (WIDTH, HIDDEN, part): 3 * wide,
        (WIDTH, WORDS, part): 3,
        (WIDTH, WIDTH, WIDTH): 2 * square + wide + 1,
        (WIDTH, HIDDEN, WIDTH): wide,
        (WIDTH, WORDS, WIDTH): 1,
    }
    assert work(models, None, 0, "ties", base).decompositions == {}
    floor = measure(models, None, 0, found, tmp_path, base)
    assert floor.seconds == floor.products + floor.decomposition + floor.disk > 0
    known, tuned = (read_network(path).weights for path in (base, models[0]))
    assert all(np.corrcoef(known[name].ravel(), tuned[name].ravel())[0, 1] > 0.9 for name in known if name[0] == "w")


def test_a_page_has_a_row_for_each_job() -> None:
    parts = dict.fromkeys(("seconds", "forward", "products", "assignment", "decomposition", "disk"), 1.0)
    found = {
        "floor": parts,
        "seconds": 3.0,
        "ratio": 3.0,
        "processor_seconds": 5.0,
        "peak_anonymous": 2 * 10**9,
        "stages": {"match": 2.5},
        "peer_seconds": None,
    }
    text = page(
        {"a": {**found, "reference_seconds": None}, "b": {**found, "reference_seconds": 9.0, "peer_seconds": 6.0}}
    )
    assert "| a | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 3.0 | 3.0 | 5.0 | 2.00 |  |  |" in text
    assert "| b | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 3.0 | 3.0 | 5.0 | 2.00 | 9.0 | 6.0 |" in text
    assert "| b | 2.5 |" in text


@pytest.mark.slow
def test_another_implementation_is_timed_beside(tmp_path: Path) -> None:
    peer, told = tmp_path / "peer.py", tmp_path / "called.json"
    peer.write_text(f"import json, sys; json.dump(sys.argv[1:], open({str(told)!r}, 'w'))", encoding="utf-8")
    options = ["tiny/average", "--repeats", "1", "--folder", tmp_path, "--json", tmp_path / "b.json", "--peer"]
    command = [sys.executable, "tools/bench.py", *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": "."}
    subprocess.run([*command, str(peer)], check=True, env=environment, capture_output=True)
    found = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["tiny/average"]
    assert found["peer_seconds"] > 0
    method, samples, data, *models = json.loads(told.read_text(encoding="utf-8"))
    assert (method, samples, data) == ("average", "0", "-")
    assert [Path(model).name for model in models] == ["0.onnx", "1.onnx"]
    peer.write_text("raise SystemExit(4)", encoding="utf-8")
    failed = subprocess.run([*command, str(peer)], check=False, env=environment, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "ended with 4; expected 0" in failed.stderr
