"""``run --width``, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from onnxmerge import UsageError, evaluate
from onnxmerge.cli.main import commands
from onnxmerge.evaluation.scorer import Accuracy
from onnxmerge.evaluation.task_file import read_tasks
from onnxmerge.recipes.file import read_recipe


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["run", *map(str, arguments)], standalone_mode=False, catch_exceptions=False)


def test_a_narrower_model_is_written_and_works(digits: Path, tmp_path: Path) -> None:
    files, output = [digits / "a.onnx", digits / "b.onnx"], tmp_path / "m.onnx"
    told = ["--json", tmp_path / "r.json", "--save-recipe", tmp_path / "r.yaml"]
    calib = ["--calib", digits / "calib.npz", "--samples", "300"]
    done = run(*files, *calib, "--method", "mudsc-zip", "--width", "0.75", "-o", output, *told)
    assert "24 -> 18" in done.output
    assert "width            0.75 times that of a parent" in done.output
    model = onnx.load(output)
    onnx.checker.check_model(model, full_check=True)
    assert {prop.key: prop.value for prop in model.metadata_props}["onnxmerge.width"] == "0.75"
    report = json.loads((tmp_path / "r.json").read_text())
    assert [group["width"] for group in report["groups"]] == [18, 18, 36, 36]
    sizes = [each["parameters"] for each in report["footprints"]]
    assert sizes[2] < 0.6 * sizes[0]
    tasks, test = read_tasks(digits / "task.json"), digits / "test.npz"
    (scored,) = evaluate([output], test, test, tasks=tasks).models
    for scores in scored.scores.tasks:
        assert isinstance(scores, Accuracy)
        assert scores.top[0] > 0.8
    again = tmp_path / "again.onnx"
    run(tmp_path / "r.yaml", "-o", again)
    assert read_recipe(tmp_path / "r.yaml").options.width == 0.75
    assert again.read_bytes() == output.read_bytes()


def test_as_wide_as_both_parents_each_head_gives_its_parent_s_answers(digits: Path, tmp_path: Path) -> None:
    files = [digits / "a.onnx", digits / "b.onnx"]
    run(
        *files,
        "--calib",
        digits / "calib.npz",
        "--samples",
        "200",
        "--method",
        "zipit",
        "--heads",
        "separate",
        "--width",
        "2",
        "-o",
        tmp_path / "m.onnx",
        "--json",
        tmp_path / "r.json",
    )
    report = json.loads((tmp_path / "r.json").read_text())
    np.testing.assert_allclose(report["reconstruction"], 0, atol=1e-5)


@pytest.mark.parametrize("width", ["3", "2.01"])
def test_wider_than_all_parents_is_refused(digits: Path, tmp_path: Path, width: str) -> None:
    files = [digits / "a.onnx", digits / "b.onnx"]
    with pytest.raises(UsageError, match="at most the number of models, 2"):
        run(*files, "--method", "weight-zip", "--width", width, "-o", tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
