"""docs/checking.md names every gate, and no other; what the README has people write works."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from onnxmerge.checking.registry import FAMILIES, GATES
from tests.checking.broken import mlp, saved
from tests.command_line import Cli


def test_every_gate_is_described(checkout: Path) -> None:
    table = (checkout / "docs" / "checking.md").read_text().split("## Gates")[1].split("## Reports")[0]
    named = re.findall(rf"`((?:{'|'.join(FAMILIES)})\.[a-z0-9-]+)`", table)
    assert sorted(named) == sorted(gate.id for gate in GATES)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def readme(checkout: Path) -> str:
    return (checkout / "README.md").read_text().split("**In CI.**")[1].split("**Outputs.**")[0]


def hooks(checkout: Path) -> str:
    return (checkout / "docs" / "checking.md").read_text().split("## CI")[1]


def test_the_configuration_of_the_readme(checkout: Path, tmp_path: Path, cli: Cli) -> None:
    (text,) = blocks(readme(checkout), "toml")
    (tmp_path / "onnxmerge.toml").write_text(text)
    (tmp_path / "models").mkdir()
    saved(mlp(), tmp_path / "models")
    assert cli("check").returncode == 0


def test_the_ci_files(checkout: Path) -> None:
    (workflow,) = map(yaml.safe_load, blocks(readme(checkout), "yaml"))
    (asking,) = map(yaml.safe_load, blocks(hooks(checkout), "yaml"))
    step = workflow["jobs"]["models"]["steps"][-1]
    action = yaml.safe_load((checkout / "action.yml").read_text())
    assert set(step.get("with", {})) <= set(action["inputs"])
    (hook,) = yaml.safe_load((checkout / ".pre-commit-hooks.yaml").read_text())
    (asked,) = asking["repos"][0]["hooks"]
    assert asked["id"] == hook["id"]


def test_the_hook(checkout: Path, tmp_path: Path, cli: Cli) -> None:
    """It holds a file that changed to what the configuration of the README says."""
    (text,), (asking,) = blocks(readme(checkout), "toml"), blocks(hooks(checkout), "yaml")
    (tmp_path / "onnxmerge.toml").write_text(text)
    (tmp_path / "models").mkdir()
    name = saved(mlp(), tmp_path / "models")
    ((asked,),) = (each["hooks"] for each in yaml.safe_load(asking)["repos"])
    ended = cli("check", *asked["args"], f"models/{name}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "certificate.groups" in ended.stdout
