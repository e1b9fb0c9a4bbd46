"""``onnxmerge run`` with recipes: read, overridden, written down, and rehearsed."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from onnxmerge.cli.main import commands
from onnxmerge.errors import OnnxmergeError, UsageError


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["run", *map(str, arguments)], catch_exceptions=False)


def recipe(folder: Path, digits: Path, more: str = "") -> Path:
    file = folder / "r.yaml"
    file.write_text(
        f"models: [{digits / 'a.onnx'}, {digits / 'b.onnx'}]\n"
        f"calibration: {{data: {digits / 'calib.npz'}}}\nsamples: 100\nmethod: act-align\n{more}"
    )
    return file


def test_a_recipe_is_a_run(digits: Path, tmp_path: Path) -> None:
    file = recipe(tmp_path, digits, "output: out.onnx\n")
    assert run(file, "--json", tmp_path / "r.json").exit_code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["method"], report["output"]) == ("act-align", str(tmp_path / "out.onnx"))
    onnx.checker.check_model(tmp_path / "out.onnx")


def test_the_command_line_goes_before_the_recipe(digits: Path, tmp_path: Path) -> None:
    file = recipe(tmp_path, digits, "output: out.onnx\n")
    done = run(file, "--method", "average", "-o", tmp_path / "other.onnx")
    assert "2 models, average" in done.output
    assert (tmp_path / "other.onnx").is_file()
    assert not (tmp_path / "out.onnx").exists()


def test_a_run_that_was_written_down_can_be_repeated(digits: Path, tmp_path: Path) -> None:
    given = ["--calib", digits / "calib.npz", "--samples", 100, "--alpha", 0.25, "--seed", 3]
    first = run(
        digits / "a.onnx", digits / "b.onnx", *given, "-o", tmp_path / "m.onnx", "--save-recipe", tmp_path / "s.yaml"
    )
    assert first.exit_code == 0
    before = (tmp_path / "m.onnx").read_bytes()
    assert run(tmp_path / "s.yaml").exit_code == 0
    assert (tmp_path / "m.onnx").read_bytes() == before


def test_a_dry_run_proves_the_groups_and_writes_nothing(digits: Path, tmp_path: Path) -> None:
    file = recipe(tmp_path, digits, 'groups: [{match: "p0", pin: true}]\n')
    done = run(file, "--dry-run", "--alpha", "auto", "--method", "mudsc-align", "--json", tmp_path / "r.json")
    assert "to be tried      11 ways to merge" in done.output
    assert done.output.count("certificate      passed") == 2
    assert "nothing was merged" in done.output
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["certificates"][0]["passed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "r.yaml"]
    with pytest.raises(UsageError, match="no group has that name"):
        run(recipe(tmp_path, digits, "groups: [{match: nothing, pin: true}]\n"), "--dry-run")


def test_what_is_missing_or_too_much_is_said(digits: Path, tmp_path: Path) -> None:
    file = recipe(tmp_path, digits)
    for arguments, message in (
        ([file], "give -o OUTPUT"),
        ([file, digits / "a.onnx", "-o", tmp_path / "m.onnx"], "leave the others out"),
        ([file, "-o", digits / "a.onnx"], "one of the models"),
        ([digits / "a.onnx", digits / "b.onnx", "--layout", "nhwc", "-o", tmp_path / "m.onnx"], "--layout is for"),
    ):
        with pytest.raises(OnnxmergeError, match=message):
            run(*arguments)
