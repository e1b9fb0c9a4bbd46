"""The examples of docs/evaluating.md are what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnxmerge.cli import main
from onnxmerge.evaluation.task_file import read_tasks


def block(checkout: Path, language: str) -> str:
    text = (checkout / "docs" / "evaluating.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return str(found)


def test_the_worked_example(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    monkeypatch.setattr("sys.argv", block(checkout, "sh").split())
    main()
    shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert shown == block(checkout, "text").splitlines()


def test_the_task_file(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text(block(checkout, "yaml"), encoding="utf-8")
    found = read_tasks(tmp_path / "tasks.yaml")
    assert [task.name for task in found.tasks] == ["signs", "round", "alarm", "distance"]
    assert found.models == ((tmp_path / "signs.onnx", 0), (tmp_path / "scene.onnx", 3))
