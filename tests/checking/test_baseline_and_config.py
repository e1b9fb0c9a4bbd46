"""Baselines, configurations and the helpers for pytest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from onnxmerge.testing import assert_certified, assert_equivalent, assert_no_drop
from tests.checking.broken import labelled, merged, mlp, saved, spoilt, unchanged, weights, with_noise
from tests.command_line import Cli


def test_a_baseline_fails_on_what_got_worse(tmp_path: Path, cli: Cli) -> None:
    data = labelled(mlp, with_noise(0.1))(tmp_path)
    assert cli("check", *data, "--save-baseline", "base.json").returncode == 0
    assert cli("check", *data, "--baseline", "base.json").returncode == 0
    saved(with_noise(0.5)(), tmp_path)
    ended = cli("check", *data, "--baseline", "base.json", "--format", "json")
    failed = [each["id"] for each in json.loads(ended.stdout)["findings"] if each["verdict"] == "fail"]
    assert ended.returncode == 3
    assert {"accuracy.drop", "agreement.mean-error"} <= set(failed)
    saved(mlp(), tmp_path)
    assert cli("check", *data, "--baseline", "base.json").returncode == 0


def test_a_baseline_is_of_one_model(tmp_path: Path, cli: Cli) -> None:
    one, other = saved(mlp(), tmp_path, "a.onnx"), saved(mlp(), tmp_path, "b.onnx")
    assert cli("check", one, "--save-baseline", "base.json").returncode == 0
    for option, file in (("--save-baseline", "new.json"), ("--baseline", "base.json")):
        ended = cli("check", one, other, option, file)
        assert ended.returncode == 2
        assert f"{option} is of one MODEL" in ended.stderr
    assert not (tmp_path / "new.json").exists()


def test_what_failed_before_is_a_warning(tmp_path: Path, cli: Cli) -> None:
    model = saved(spoilt("w", np.nan)(), tmp_path)
    assert cli("check", model, "--save-baseline", "base.json").returncode == 3
    assert cli("check", model, "--baseline", "base.json").returncode == 0
    saved(spoilt("v", np.nan)(), tmp_path)
    assert cli("check", model, "--baseline", "base.json").returncode == 3


def test_what_is_no_longer_asked_fails(tmp_path: Path, cli: Cli) -> None:
    model = saved(mlp(), tmp_path)
    cli("check", model, "--certify", "--save-baseline", "base.json")
    ended = cli("check", model, "--baseline", "base.json", "--format", "github")
    assert ended.returncode == 3
    assert "certificate.groups::not evaluated" in ended.stdout


def test_a_baseline_goes_where_its_files_go(tmp_path: Path, cli: Cli) -> None:
    """It is saved on one machine, and compared with on another."""
    (tmp_path / "here" / "c").mkdir(parents=True)
    build = merged(unchanged)(tmp_path / "here")
    saved(mlp(**weights(2)), tmp_path / "here" / "c", "a.onnx")
    shutil.copytree(tmp_path / "here", tmp_path / "there")

    def checked(home: str, *options: str) -> int:
        parents = ("--against", f"{home}/a.onnx", f"{home}/c/a.onnx")
        return cli("check", f"{home}/{build[0]}", *parents, *options).returncode

    assert checked("here", "--save-baseline", "base.json") == 3
    assert checked("there", "--baseline", "base.json") == 0


def test_infinitely_worse_is_worse(tmp_path: Path, cli: Cli) -> None:
    asked = ("check", saved(with_noise(0.2)(), tmp_path), "--against", "a.onnx", "--max-error", "0.01")
    saved(mlp(), tmp_path, "a.onnx")
    assert cli(*asked, "--save-baseline", "base.json").returncode == 3
    assert cli(*asked, "--baseline", "base.json").returncode == 0
    saved(mlp(v=np.zeros((3, 5), np.float32), c=np.zeros(3, np.float32)), tmp_path, "a.onnx")
    ended = cli(*asked, "--baseline", "base.json", "--format", "json")
    failed = [
        each["id"]
        for each in json.loads(ended.stdout)["findings"]
        if each["verdict"] == "fail" and each["severity"] == "error"
    ]
    assert "agreement.largest-error" in failed


def test_what_was_the_same_and_is_not(tmp_path: Path, cli: Cli) -> None:
    asked = ("check", saved(mlp(), tmp_path), "--against", saved(mlp(), tmp_path, "a.onnx"))
    cli(*asked, "--save-baseline", "base.json")
    saved(with_noise(0.1)(), tmp_path)
    ended = cli(*asked, "--baseline", "base.json", "--format", "json")
    failed = [each["id"] for each in json.loads(ended.stdout)["findings"] if each["verdict"] == "fail"]
    assert "agreement.signal-to-noise" in failed


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', "\0"])
def test_what_is_no_baseline(text: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "base.json").write_text(text)
    ended = cli("check", saved(mlp(), tmp_path), "--baseline", "base.json")
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1


def test_a_configuration_checks_a_repository(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "models").mkdir()
    for name in ("a.onnx", "b.onnx"):
        saved(mlp(), tmp_path / "models", name)
    (tmp_path / "pyproject.toml").write_text('[[tool.onnxmerge.check]]\nmodels = ["models/*.onnx"]\ncertify = true\n')
    ended = cli("check", "--format", "json")
    assert ended.returncode == 0
    assert len(json.loads(ended.stdout)["reports"]) == 2
    saved(spoilt("w", np.nan)(), tmp_path / "models", "c.onnx")
    assert cli("check").returncode == 3


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (None, 2, "name a MODEL"),
        ("", 1, "has no [[check]]"),
        ("check = []", 1, "has no [[check]]"),
        ("[[check]]", 1, "models"),
        ("[[check]]\nmodels = ['*.onnx']\nfoo = 1", 1, "foo"),
        ("[[check]]\nmodels = ['../*.onnx']", 1, "leads out"),
        ("[[check]]\nmodels = ['m.onnx']\nagainst = ['/etc/passwd']", 1, "leads out"),
        ("check = 3", 1, "expected tables"),
        ("[[check", 1, "is not TOML"),
        ("[[check]]\nmodels = ['none/*.onnx']", 4, ""),
        ("[[check]]\nmodels = ['m.onnx']\ntargets = ['mars']", 2, "openvino"),
    ],
)
def test_configurations(text: str | None, code: int, says: str, tmp_path: Path, cli: Cli) -> None:
    saved(mlp(), tmp_path)
    if text is not None:
        (tmp_path / "onnxmerge.toml").write_text(text)
    ended = cli("check")
    assert ended.returncode == code
    assert says in ended.stderr


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("pyproject.toml", "[tool.other]", "has no [[tool.onnxmerge.check]]"),
        ("pyproject.toml", "[tool.onnxmerge]\ncheck = []", "has no [[tool.onnxmerge.check]]"),
        ("gates.toml", "", "has no [[check]]"),
    ],
)
def test_a_configuration_that_asks_nothing(name: str, text: str, says: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / name).write_text(text)
    ended = cli("check", "--config", name)
    assert (ended.returncode, says in ended.stderr) == (1, True)


def test_models_of_a_configuration_by_name(tmp_path: Path, cli: Cli) -> None:
    """As a hook has it: files that changed, and what the repository holds them to."""
    (tmp_path / "onnxmerge.toml").write_text("[[check]]\nmodels = ['[ab].onnx']\nmin_runtime = '1.12'\n")
    for name in ("a.onnx", "b.onnx", "c.onnx"):
        saved(mlp(), tmp_path, name)
    asked = ("check", "--config", "onnxmerge.toml")
    ended = cli(*asked, "b.onnx", "--format", "json")
    found = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr, Path(found["model"]).name) == (0, "", "b.onnx")
    assert "portability.opset" in {each["id"] for each in found["findings"] if each["verdict"] == "pass"}
    ended = cli(*asked, "a.onnx", "c.onnx")
    assert ended.returncode == 4
    assert "no pattern of the configuration matches it" in ended.stdout
    ended = cli(*asked, "nowhere.onnx")
    assert (ended.returncode, "no such file" in ended.stderr) == (1, True)
    ended = cli("check", "a.onnx")
    assert (ended.returncode, ended.stderr.count("\n")) == (0, 1)
    assert "onnxmerge.toml is not asked where a MODEL is named" in ended.stderr


def test_options_beside_a_configuration(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "onnxmerge.toml").write_text("[[check]]\nmodels = ['m.onnx']")
    ended = cli("check", "--certify")
    assert ended.returncode == 2
    assert "--certify is for one MODEL" in ended.stderr


def test_assertions_for_pytest() -> None:
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    assert assert_certified(mlp()).passed
    assert_equivalent(mlp(), mlp())
    with pytest.raises(AssertionError, match=r"agreement.largest-error y against"):
        assert_equivalent(with_noise(0.1)(), mlp(), data=x)
    labels = (np.maximum(x @ weights()["w"].T + weights()["b"], 0) @ weights()["v"].T + weights()["c"]).argmax(axis=1)
    assert_no_drop(mlp(), [mlp()], data=x, labels=labels, max_drop=5)
    with pytest.raises(AssertionError, match=r"too few samples to tell"):
        assert_no_drop(mlp(), [mlp()], data=x, labels=labels)
    with pytest.raises(AssertionError, match=r"accuracy.drop"):
        assert_no_drop(with_noise(2.0)(), [mlp()], data=x, labels=labels)
