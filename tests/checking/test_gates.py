"""Each broken model is found by the gate that is there for it, and by no other; good models pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxmerge.checking.formats.schema import Report
from tests.checking.broken import CASES, GOOD, Case, mlp, saved
from tests.command_line import Cli


def checked(case: Case, folder: Path, cli: Cli) -> dict[str, object]:
    ended = cli("check", *case.build(folder), "--format", "json")
    assert ended.returncode == case.exit_code, (ended.stdout, ended.stderr)
    assert ended.stderr == ""
    Report.model_validate_json(ended.stdout, strict=True)
    found: dict[str, object] = json.loads(ended.stdout)
    return found


def failing(found: dict[str, object]) -> set[str]:
    findings = found["findings"]
    assert isinstance(findings, list)
    bad = [each for each in findings if each["verdict"] in ("fail", "unsupported") and each["severity"] == "error"]
    assert all(each["remedy"] for each in bad)
    return {each["id"] for each in bad}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_broken_model_is_found_by_its_gate(case: Case, tmp_path: Path, cli: Cli) -> None:
    found = checked(case, tmp_path, cli)
    assert failing(found) == {case.gate}
    assert not found["passed"]


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_a_good_model_passes(case: Case, tmp_path: Path, cli: Cli) -> None:
    found = checked(case, tmp_path, cli)
    assert not failing(found)
    assert found["passed"]


def test_nothing_checked(tmp_path: Path, cli: Cli) -> None:
    ended = cli("check", saved(mlp(), tmp_path), "--only", "certificate")
    assert ended.returncode == 4
    assert "nothing was checked" in ended.stdout


def test_parents_are_all_words_up_to_the_next_option(tmp_path: Path, cli: Cli) -> None:
    for name in ("m.onnx", "a.onnx", "b.onnx"):
        saved(mlp(), tmp_path, name)
    ended = cli("check", "m.onnx", "--against", "a.onnx", "b.onnx", "--format", "json")
    found = json.loads(ended.stdout)
    parents = [each["measured"] for each in found["findings"] if each["id"] == "interface.parents"]
    assert (ended.returncode, len(parents)) == (0, 2)
    assert [(layer["name"], layer["touched"]) for layer in found["layers"]] == [(name, False) for name in "wbvc"]
    ended = cli("check", "--against", "a.onnx", "m.onnx")
    assert ended.returncode == 2
    assert "in front of --against" in ended.stderr


def test_names_of_cases() -> None:
    names = [case.name for case in (*CASES, *GOOD)]
    assert len(set(names)) == len(names)
