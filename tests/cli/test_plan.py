"""``onnxmerge plan``: a forecast as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.command_line import Cli
from tests.quantised import dynamic, products


def test_it_prints_a_table(digits: Path, cli: Cli) -> None:
    models, data = (digits / "a.onnx", digits / "b.onnx"), ("--calib", digits / "calib.npz")
    done = cli("plan", *models, *data, "--tasks", digits / "task.json")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert lines["p0"].split()[1:4] == ["24", "24", "stream"]
    assert "agreement with the ensemble 0.9" in lines["forecast"]
    assert "a law with one number, fitted on" in lines["rests"]
    assert lines["nothing"] == "nothing was merged or written; onnxmerge run does it"


def test_it_writes_json(digits: Path, cli: Cli, tmp_path: Path) -> None:
    models, data = (digits / "a.onnx", digits / "b.onnx"), ("--calib", digits / "calib.npz")
    done = cli("plan", *models, *data, "--width", 2, "--json", "plan.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["forecast"]
    assert {group["width"] for group in found["groups"]} == {48, 96}
    assert found["arriving"] > 0.999
    assert found["law"]["merges"] >= 10
    printed = cli("plan", *models, *data, "--width", 2, "--json", "-")
    assert json.loads(printed.stdout)["forecast"] == found


def test_what_is_wrong_is_told_in_a_line(digits: Path, cli: Cli) -> None:
    alone = cli("plan", digits / "a.onnx", "--calib", digits / "calib.npz")
    assert (alone.returncode, alone.stderr.count("\n")) == (2, 1)
    assert "merging takes two models or more" in alone.stderr
    without = cli("plan", digits / "a.onnx", digits / "b.onnx")
    assert without.returncode == 2
    assert "--calib" in without.stderr
    odd = cli("plan", digits / "a.onnx", digits / "b.onnx", "--calib", digits / "task.json")
    assert odd.returncode == 1


def test_of_quantised_models_a_merge_of_another_width_is_forecast_too(cli: Cli, tmp_path: Path) -> None:
    for seed in (0, 1):
        dynamic()(products(seed), tmp_path / f"{seed}.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32))
    command = ("plan", "0.onnx", "1.onnx", "--calib", "x.npy", "--width", 1.5)
    refused = cli(*command)
    assert refused.returncode == 2
    assert "add --output-type float" in refused.stderr
    done = cli(*command, "--output-type", "float")
    assert done.returncode == 0, done.stderr
    assert "least room" in done.stdout
