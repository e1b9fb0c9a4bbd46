"""Reports as other programs read them: nothing a model is called can break a format, and counts agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from pydantic import TypeAdapter

from onnxmerge.checking.formats import FORMATS
from onnxmerge.checking.formats.schema import Report
from onnxmerge.checking.formats.words import sentence
from onnxmerge.checking.report import CheckReport, exit_code_of
from onnxmerge.errors import UsageError
from onnxmerge.text import printable
from tests.checking.broken import mlp, saved, spoilt
from tests.checking.reports import EMPTY, REPORT
from tests.command_line import Cli


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_steers_the_reader(name: str) -> None:
    text = REPORT.to_format(name)
    assert all(character.isprintable() or character == "\n" for character in text)
    text.encode("utf-8")


def test_json_says_what_was_found() -> None:
    found = json.loads(REPORT.to_json())
    TypeAdapter(Report).validate_json(REPORT.to_json(), strict=True)
    assert found["counts"] == {"pass": 1, "fail": 2, "skipped": 1, "unsupported": 1}
    assert found["exit_code"] == 3
    assert found["layers"] == [{"name": "w", "shape": [3, 4], "free": True, "touched": None}]


def test_sarif_has_what_code_scanning_asks_for() -> None:
    log = json.loads(FORMATS["sarif"]([REPORT, EMPTY]))
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [result["level"] for result in run["results"]] == ["error", "warning", "error", "error"]
    assert run["results"][-1]["ruleId"] == "check.nothing"
    assert [(each["exitCode"], each["pass"], each["skipped"]) for each in run["properties"]["models"]] == [
        (3, 1, 1), (4, 0, 1),
    ]  # fmt: skip
    assert all(rule["fullDescription"]["text"] and rule["help"]["text"] for rule in rules)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]
        assert place["region"]["startLine"] == 1
        assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", place["artifactLocation"]["uri"])


def command_of(line: str) -> tuple[str, dict[str, str], str]:
    """A workflow command as GitHub's runner reads it: what it is, its properties, its message."""
    found = re.fullmatch(r"::(\w+) (.*?)::(.*)", line)
    assert found is not None, line
    codes = {"%0A": "\n", "%0D": "\r", "%3A": ":", "%2C": ",", "%25": "%"}

    def decoded(text: str) -> str:
        return re.sub("%[0-9A-F]{2}", lambda code: codes[code[0]], text)

    properties = dict(each.split("=", 1) for each in found[2].split(","))
    return found[1], {name: decoded(value) for name, value in properties.items()}, decoded(found[3])


def test_github_reads_its_commands() -> None:
    commands = [command_of(line) for line in REPORT.to_format("github").splitlines()]
    assert [kind for kind, _, _ in commands] == ["error", "warning", "error", "notice"]
    assert all(set(properties) == {"file", "title"} for _, properties, _ in commands)
    ids = ["integrity.finite-weights", "interface.free-sizes", "certificate.groups"]
    assert [properties["title"] for _, properties, _ in commands[:3]] == [f"onnxmerge {name}" for name in ids]
    assert {properties["file"] for _, properties, _ in commands} == {printable(REPORT.model)}
    assert [message for _, _, message in commands[:3]] == [sentence(REPORT.findings[place]) for place in (1, 2, 3)]


def test_markdown_keeps_its_columns() -> None:
    table = [line for line in REPORT.to_markdown().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {7}


@pytest.mark.parametrize("name", ["github", "junit", "markdown", "sarif", "text"])
def test_a_model_is_called_by_its_place_in_the_repository(name: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "models").mkdir()
    ended = cli("check", f"models/{saved(mlp(), tmp_path / 'models')}", "--only", "integrity", "--format", name)
    assert "models/m.onnx" in ended.stdout
    assert str(tmp_path) not in ended.stdout


@pytest.mark.parametrize("name", ["github", "markdown", "text"])
def test_a_failure_that_blocks_nothing_is_counted_as_a_warning(name: str, tmp_path: Path, cli: Cli) -> None:
    model = saved(spoilt("w", -np.inf)(), tmp_path)
    ended = cli("check", model, "--only", "integrity", "--skip", "behaviour", "--format", name)
    assert (ended.returncode, "1 warning" in ended.stdout, " fail" in ended.stdout) == (0, True, False)


def test_an_unknown_format() -> None:
    with pytest.raises(UsageError, match="there is no format 'csv'; choose one of json"):
        REPORT.to_format("csv")


def test_of_several() -> None:
    fine = CheckReport("b.onnx", None, REPORT.findings[:1])
    assert [exit_code_of(each) for each in ([], [fine], [fine, EMPTY], [EMPTY, REPORT])] == [4, 0, 4, 3]
    assert json.loads(FORMATS["json"]([fine, REPORT]))["exit_code"] == 3
    assert len(list(ET.fromstring(FORMATS["junit"]([fine, EMPTY])))) == 2  # noqa: S314


def test_several_reports_at_once(tmp_path: Path, cli: Cli) -> None:
    model = saved(mlp(), tmp_path)
    given = [word for name in FORMATS for word in ("--report", f"{name}={name}.out")]
    ended = cli("check", model, *given, "--format", "json")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout) == json.loads((tmp_path / "json.out").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {model, *(f"{name}.out" for name in FORMATS)}


@pytest.mark.parametrize(
    ("report", "code", "says"),
    [
        ("junit=m.onnx", 2, "is the model itself"),
        ("junit=", 2, "expected FORMAT=FILE"),
        ("csv=x", 2, "expected FORMAT=FILE"),
        ("json=nowhere/x", 1, "its folder does not exist"),
    ],
)
def test_a_report_that_cannot_be(report: str, code: int, says: str, tmp_path: Path, cli: Cli) -> None:
    model = saved(mlp(), tmp_path)
    ended = cli("check", model, "--report", report)
    assert ended.returncode == code
    assert says in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == [model]
