"""Reports as other programs read them: nothing a model is called can break a format, and counts agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from pydantic import TypeAdapter

from onnxmerge.checking.finding import Finding, Layer
from onnxmerge.checking.formats import FORMATS
from onnxmerge.checking.formats.schema import Report, json_schema
from onnxmerge.checking.report import CheckReport, exit_code_of
from onnxmerge.errors import UsageError
from tests.checking.broken import mlp, saved
from tests.command_line import Cli

NASTY = "a|b<c>&\"'`\n::error::x\x1b[31m%,:\u202e]]>\udc80"

REPORT = CheckReport(
    f"models/{NASTY}.onnx",
    None,
    (
        Finding("integrity.graph", "error", "", "5 nodes", None, "pass", ""),
        Finding("integrity.finite-weights", "error", NASTY, NASTY, float("inf"), "fail", NASTY),
        Finding("interface.free-sizes", "warning", "s", "does not run with 8", "free", "fail", "declare it"),
        Finding("certificate.groups", "error", "", float("nan"), 1e-4, "unsupported", "leave it out"),
        Finding("cost.size", "error", "", 1.25, None, "skipped", "measured only"),
    ),
    (Layer("w", (3, 4), free=True, touched=None),),
)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_steers_the_reader(name: str) -> None:
    text = REPORT.to_format(name)
    assert all(character.isprintable() or character == "\n" for character in text)
    text.encode("utf-8")


def test_json_is_as_its_schema_says(checkout: Path) -> None:
    assert json.loads((checkout / "specs" / "check" / "report.schema.json").read_text()) == json_schema()
    found = json.loads(REPORT.to_json())
    TypeAdapter(Report).validate_json(REPORT.to_json(), strict=True)
    assert found["counts"] == {"pass": 1, "fail": 2, "skipped": 1, "unsupported": 1}
    assert found["exit_code"] == 3
    assert found["layers"] == [{"name": "w", "shape": [3, 4], "free": True, "touched": None}]


def test_junit_is_read_back() -> None:
    root = ET.fromstring(REPORT.to_junit())  # noqa: S314 - our own text
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["5", "1", "1", "1"]
    assert [[child.tag for child in case] for case in suite] == [
        ["system-out"], ["failure"], ["system-out"], ["error"], ["skipped"],
    ]  # fmt: skip


def test_sarif_has_what_the_standard_asks_for() -> None:
    log = REPORT.to_sarif()
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert log["version"] == "2.1.0"
    assert [result["kind"] for result in run["results"]] == ["pass", "fail", "fail", "fail", "notApplicable"]
    assert [result["level"] for result in run["results"]] == ["none", "error", "warning", "error", "none"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert result["message"]["text"]
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", uri)


def test_github_has_one_command_a_line() -> None:
    lines = REPORT.to_format("github").splitlines()
    assert [re.match(r"::(\w+) file=[^,:]+,title=[^,:]+::", line)[1] for line in lines] == [  # type: ignore[index]
        "error", "warning", "error", "notice",
    ]  # fmt: skip


def test_markdown_keeps_its_columns() -> None:
    table = [line for line in REPORT.to_markdown().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {7}


def test_an_unknown_format() -> None:
    with pytest.raises(UsageError, match="there is no format 'csv'; choose one of json"):
        REPORT.to_format("csv")


def test_of_several() -> None:
    empty = CheckReport("a.onnx", None, (Finding("cost.size", "error", "", None, None, "skipped", "-"),))
    fine = CheckReport("b.onnx", None, REPORT.findings[:1])
    assert [exit_code_of(each) for each in ([], [fine], [fine, empty], [empty, REPORT])] == [4, 0, 4, 3]
    assert json.loads(FORMATS["json"]([fine, REPORT]))["exit_code"] == 3
    assert len(list(ET.fromstring(FORMATS["junit"]([fine, empty])))) == 2  # noqa: S314


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
