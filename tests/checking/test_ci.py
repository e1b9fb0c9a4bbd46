"""What CI systems run, run as they would: the commands that stand in their files, in a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import yaml

from tests.checking.broken import mlp, saved, spoilt


@pytest.fixture
def environment(tmp_path: Path, checkout: Path) -> dict[str, str]:
    """A machine of CI on which onnxmerge is installed, with what GitHub gives to a step."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "onnxmerge").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxmerge "$@"\n')
    (programs / "onnxmerge").chmod(0o755)
    files = {name: str(tmp_path / name.lower()) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **files, "PATH": path, "PYTHONPATH": str(checkout), "RUNNER_TEMP": str(tmp_path)}


def shell(command: str, folder: Path, environment: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub's runner does."""
    return subprocess.run(
        [shutil.which("bash") or "bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", command],
        cwd=folder, env={**environment, **more}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def steps(path: Path, *keys: str) -> dict[str, Any]:
    found: Any = yaml.safe_load(path.read_text())
    for key in keys:
        found = found[key]
    return {step["name"]: step for step in found if "name" in step}


def test_the_action(tmp_path: Path, checkout: Path, environment: dict[str, str]) -> None:
    step = steps(checkout / "action.yml", "runs", "steps")["check"]
    assert set(step["env"]) == {"MODELS", "OPTIONS"}
    (work := tmp_path / "work").mkdir()
    saved(mlp(), work, "a.onnx")
    saved(spoilt("w", np.nan)(), work, "b.onnx")
    ended = shell(step["run"], work, environment, MODELS="a.onnx\nb.onnx", OPTIONS="--min-runtime 1.17")
    assert ended.returncode == 3, ended.stderr
    assert "::error file=b.onnx,title=onnxmerge integrity.finite-weights::w: 1 nan" in ended.stdout
    assert "sarif=" in (tmp_path / "github_output").read_text()
    assert (tmp_path / "onnxmerge.sarif").stat().st_size
    assert (tmp_path / "github_step_summary").read_text().count("###") == 2
    ended = shell(step["run"], work, environment, MODELS="a.onnx", OPTIONS="--seed $(touch${IFS}hacked)")
    assert ended.returncode == 2
    assert not (work / "hacked").exists()


def test_the_hook(tmp_path: Path, checkout: Path, environment: dict[str, str]) -> None:
    (hook,) = yaml.safe_load((checkout / ".pre-commit-hooks.yaml").read_text())
    names = [saved(mlp(), tmp_path, name) for name in ("a.onnx", "b.onnx")]
    ended = shell(f"{hook['entry']} {shlex.join(names)}", tmp_path, environment)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_the_gitlab_template(tmp_path: Path, checkout: Path, environment: dict[str, str]) -> None:
    job = yaml.safe_load((checkout / "ci" / "gitlab.yml").read_text())["onnxmerge-check"]
    saved(mlp(), tmp_path)
    (command,) = [line for line in job["script"] if line.startswith("onnxmerge")]
    ended = shell(command, tmp_path, environment, MODELS="m.onnx", OPTIONS="--certify")
    assert ended.returncode == 0, ended.stderr
    assert ET.parse(tmp_path / job["artifacts"]["reports"]["junit"]).getroot().get("failures") == "0"  # noqa: S314


@pytest.mark.slow
def test_the_example_workflow(tmp_path: Path, checkout: Path, digits: Path, environment: dict[str, str]) -> None:
    found = steps(checkout / "ci" / "github-workflow.yml", "jobs", "model", "steps")
    for name in ("calib.npz", "test.npz", "task.json"):
        shutil.copy(digits / name, tmp_path)
    export = f"import shutil\nfor name in ('a', 'b'):\n    shutil.copy(f'{digits}/{{name}}.onnx', '.')\n"
    (tmp_path / "export.py").write_text(export)
    said = []
    for name in ("export", "merge", "check"):
        ended = shell(found[name]["run"], tmp_path, environment)
        assert ended.returncode == 0, (ended.stdout, ended.stderr)
        said.append(ended.stdout)
    assert "onnxmerge check::passed" in said[-1]
    assert list(found)[-1] == "publish"
