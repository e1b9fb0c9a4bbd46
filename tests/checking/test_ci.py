"""What CI systems run, run as they would: the commands that stand in their files, one after the other, in a shell."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import yaml

from tests.checking.broken import mlp, saved, spoilt


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of CI with a checkout in ``work``; ``outside`` has what the system keeps for itself."""

    work: Path
    outside: Path
    environment: Mapping[str, str]

    def shell(self, command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a step as GitHub's runner does, and GitLab's much the same."""
        return subprocess.run(
            [shutil.which("bash") or "bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", command],
            cwd=self.work, env={**self.environment, **more}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def action(self, path: Path, **inputs: str) -> list[subprocess.CompletedProcess[str]]:
        """Run the steps of a composite action until one fails, with its inputs filled in as GitHub does."""
        action = yaml.safe_load(path.read_text())
        given = {name: inputs.pop(name, declared["default"]) for name, declared in action["inputs"].items()}
        assert not inputs, "the action has no such inputs"
        ended = []
        for step in action["runs"]["steps"]:
            assert step["shell"] == "bash"
            assert "${{" not in step["run"], "what users write would be run as code"
            filled = {name: _filled(value, given) for name, value in step.get("env", {}).items()}
            ended.append(self.shell(step["run"], GITHUB_ACTION_PATH=str(path.parent), **filled))
            if ended[-1].returncode:
                break
        return ended


def _filled(text: str, inputs: Mapping[str, str]) -> str:
    return re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: inputs[found[1]], text)


def machine(folder: Path, programs: str, **more: str) -> Machine:
    (work := folder / "work").mkdir()
    files = {name: str(folder / name.lower()) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return Machine(work, folder, {**os.environ, **files, "PATH": path, "RUNNER_TEMP": str(folder), **more})


@pytest.fixture
def installed(tmp_path: Path, checkout: Path) -> Machine:
    """A machine on which this checkout is installed, and where pip only notes what it was asked for."""
    (programs := tmp_path / "bin").mkdir()
    for name, text in {
        "onnxmerge": f'exec "{sys.executable}" -m onnxmerge "$@"',
        "python": f"""case "$2" in
            pip) echo "$@" >> "{tmp_path}/pip" ;;
            venv) mkdir -p "$3/bin" && cp "{programs}"/* "$3/bin" ;;
            *) exec "{sys.executable}" "$@" ;;
        esac""",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    return machine(tmp_path, str(programs), PYTHONPATH=str(checkout))


@pytest.fixture
def bare(tmp_path: Path) -> Machine:
    """A machine with Python alone, and a registry of packages."""
    venv.create(tmp_path / "venv", with_pip=True)
    return machine(tmp_path, str(tmp_path / "venv" / "bin"))


def test_the_action(checkout: Path, installed: Machine) -> None:
    saved(mlp(), installed.work, "a.onnx")
    saved(spoilt("w", np.nan)(), installed.work, "b.onnx")
    _, ended = installed.action(checkout / "action.yml", models="a.onnx\nb.onnx", options="--min-runtime 1.17")
    assert (installed.outside / "pip").read_text() == f"-m pip install --quiet {checkout}\n"
    assert ended.returncode == 3, ended.stderr
    assert "::error file=b.onnx,title=onnxmerge integrity.finite-weights::w: 1 nan" in ended.stdout
    assert (installed.outside / "github_output").read_text() == f"sarif={installed.outside}/onnxmerge.sarif\n"
    assert (installed.outside / "onnxmerge.sarif").stat().st_size
    assert (installed.outside / "github_step_summary").read_text().count("###") == 2


def test_the_action_runs_nothing_that_users_write(checkout: Path, installed: Machine) -> None:
    saved(mlp(), installed.work, "a.onnx")
    ended = installed.action(checkout / "action.yml", models="a.onnx", options="--seed $(touch${IFS}hacked)")[-1]
    assert ended.returncode == 2
    assert not (installed.work / "hacked").exists()


def test_the_action_on_a_repository_with_a_configuration(checkout: Path, installed: Machine) -> None:
    saved(mlp(), installed.work)
    (installed.work / "onnxmerge.toml").write_text("[[check]]\nmodels = ['*.onnx']\ncertify = true\n")
    ended = installed.action(checkout / "action.yml")[-1]
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_hook(checkout: Path, installed: Machine) -> None:
    (hook,) = yaml.safe_load((checkout / ".pre-commit-hooks.yaml").read_text())
    staged = [saved(mlp(), installed.work, name) for name in ("a.onnx", "b.onnx")] + ["README.md"]
    names = [name for name in staged if re.search(hook["files"], name)]
    assert names == ["a.onnx", "b.onnx"]
    # pre-commit writes the user's args behind the entry, and file names last.
    ended = installed.shell(f"{hook['entry']} --certify --against=a.onnx {shlex.join(names)}")
    assert ended.returncode == 0, ended.stderr
    assert "agreement.largest-error" in ended.stdout


def test_the_gitlab_template(checkout: Path, installed: Machine) -> None:
    job = yaml.safe_load((checkout / "ci" / "gitlab.yml").read_text())["onnxmerge-check"]
    saved(mlp(), installed.work)
    saved(spoilt("w", np.nan)(), installed.work, "b.onnx")
    report = installed.work / job["artifacts"]["reports"]["junit"]
    given = {**job["variables"], "MODELS": "m.onnx b.onnx", "OPTIONS": "--certify"}
    ended = installed.shell("\n".join(job["script"]), **given)
    assert ended.returncode == 3, ended.stderr
    assert ET.parse(report).getroot().get("failures") == "1"  # noqa: S314
    assert (installed.outside / "pip").read_text() == "-m pip install --quiet onnxmerge\n"


def steps(checkout: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The steps of the example workflow, and its environment."""
    workflow = yaml.safe_load((checkout / "ci" / "github-workflow.yml").read_text())
    return workflow["jobs"]["model"]["steps"], workflow["env"]


def workflow(machine: Machine, checkout: Path, digits: Path, **environment: str) -> list[str]:
    """Run the example workflow in a repository that has what it asks for; what its steps printed."""
    for name in ("calib.npz", "test.npz", "task.json"):
        shutil.copy(digits / name, machine.work)
    export = f"import shutil\nfor name in ('a', 'b'):\n    shutil.copy(f'{digits}/{{name}}.onnx', '.')\n"
    (machine.work / "export.py").write_text(export)
    found, given = steps(checkout)
    said = []
    for step in found:
        if "run" in step:
            ended = machine.shell(step["run"], **{**given, **environment})
            assert ended.returncode == 0, (step["name"], ended.stdout, ended.stderr)
            said.append(ended.stdout)
    assert any("onnxmerge check::passed" in each for each in said)
    assert (machine.outside / "github_step_summary").read_text().startswith("### merged.onnx: passed")
    assert found[-1]["name"] == "publish"
    assert (machine.work / found[-1]["with"]["path"]).is_file()
    return said


@pytest.mark.slow
def test_the_example_workflow(checkout: Path, digits: Path, installed: Machine) -> None:
    workflow(installed, checkout, digits)


@pytest.mark.slow
def test_all_of_it_from_a_bare_machine(checkout: Path, digits: Path, bare: Machine) -> None:
    workflow(bare, checkout, digits, ONNXMERGE=str(checkout))
    install, check = bare.action(checkout / "action.yml", models="merged.onnx")
    assert (install.returncode, check.returncode) == (0, 0), (install.stderr, check.stdout)


@pytest.mark.slow
def test_the_hook_by_pre_commit(checkout: Path, tmp_path: Path) -> None:
    if shutil.which("pre-commit") is None or not (checkout / ".git").exists():
        pytest.skip("needs pre-commit, and a clone of the repository")
    work = machine(tmp_path, "", PRE_COMMIT_HOME=str(tmp_path / "cache"))
    saved(mlp(), work.work, "good.onnx")
    saved(spoilt("w", np.nan)(), work.work, "broken.onnx")
    ended = work.shell(
        f"git init --quiet && git add . && pre-commit try-repo {shlex.quote(str(checkout))} onnxmerge-check --all-files"
    )
    assert ended.returncode == 1, (ended.stdout, ended.stderr)
    assert "exit code: 3" in ended.stdout
    assert re.findall(r"^(\w+): \d+ pass", ended.stdout, re.MULTILINE) == ["FAILED", "passed"]
